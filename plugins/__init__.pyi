# SPDX-License-Identifier: Apache-2.0
from .python_plugin import PluginOperator as PluginOperator
from .python_plugin import make_creator as make_creator
from .registration import plugin_names as plugin_names
from .registration import register_plugins as register_plugins
from .torch_tensorrt import register_converters as register_converters
