# SPDX-License-Identifier: Apache-2.0
"""Registration of the plugins in TensorRT: those of the C++ library if one is set, else the Python classes.

Registration is global and lasts as long as the process; engines and parsers find a plugin by name, version
and namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from imp_trt.cuda.kernels import current_device
from imp_trt.cuda.platform import LIBRARY_VARIABLE
from imp_trt.errors import DependencyMissing, EngineIncompatible, UsageError
from imp_trt.plugins.python_plugin import (
    NAMESPACE,
    VERSION,
    PluginOperator,
    make_creator,
)
from imp_trt.plugins.tensorrt_types import IPluginRegistry, TensorRT

_BUILT_FOR = re.compile(rb"imp_trt_plugins built for TensorRT (\d+)\.(\d+)\.(\d+);")
_RTX_INTERFACES_OF = 11  # TensorRT-RTX 1.x has the plugin interfaces of TensorRT 11
_python: dict[str, list[object]] = {}  # module name -> the creators registered here, which must stay alive


def operators() -> tuple[type[PluginOperator], ...]:
    """The operators that have a plugin."""
    from imp_trt.plugins.instance_mask_projection.plugin import InstanceMaskProjection
    from imp_trt.plugins.multilevel_roi_align.plugin import MultilevelRoiAlign

    return InstanceMaskProjection, MultilevelRoiAlign


def plugin_names() -> tuple[str, ...]:
    """Names of the operators that have a plugin, as ONNX nodes and plugin creators carry them."""
    return tuple(operator.NAME for operator in operators())


def register_plugins(trt: TensorRT, library: Path | None = None) -> Literal["c++", "python"]:
    """Registers the plugins in TensorRT's global registry; idempotent.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        library: libimp_trt_plugins.so; default: the environment variable IMP_TRT_PLUGIN_LIBRARY, and
            without it the Python plugins.

    Returns:
        Which plugins TensorRT will use.

    Raises:
        DependencyMissing: the library does not exist or TensorRT cannot load it.
        EngineIncompatible: the library was built for another major of TensorRT.
        UsageError: a library is given and the Python plugins are already registered; or another library
            has registered one of the names.
    """
    path = library or (Path(os.environ[LIBRARY_VARIABLE]) if os.environ.get(LIBRARY_VARIABLE) else None)
    registry = trt.get_plugin_registry()
    missing = set(plugin_names()) - _registered(registry)
    if not missing:
        return _already_registered(trt, path)
    if len(missing) < len(plugin_names()):
        present = sorted(set(plugin_names()) - missing)
        raise UsageError(
            "another library has registered a plugin of imp_trt",
            expected="all or none of " + ", ".join(plugin_names()),
            got=", ".join(present),
            fix="call register_plugins() before loading it",
        )
    if path is not None:
        _load(trt, registry, path)
        return "c++"
    creators = [make_creator(trt, operator) for operator in operators()]
    for creator in creators:
        registry.register_creator(creator, NAMESPACE)
    _python[trt.__name__] = creators
    return "python"


def prepare_kernels(names: Collection[str]) -> None:
    """Compiles and loads kernels of Python plugins on the current GPU, to find out whether that can be done.

    The plugins also do that when they are attached to a context; but there TensorRT hides the error and
    reports only that it has no context.

    Args:
        names: names of operators, see plugin_names.

    Raises:
        DependencyMissing: no NVRTC, one newer than the driver, or one that does not support the GPU.
        BuildError, DeviceError: the kernels cannot be compiled or loaded.
    """
    for operator in operators():
        if operator.NAME in names:
            operator.try_kernels(current_device())


def _registered(registry: IPluginRegistry) -> set[str]:
    # get_creator() would log an error for every missing name.
    return {
        creator.name
        for creator in registry.all_creators
        if (creator.plugin_version, creator.plugin_namespace) == (VERSION, NAMESPACE)
    }


def _already_registered(trt: TensorRT, path: Path | None) -> Literal["c++", "python"]:
    if trt.__name__ not in _python:
        return "c++"
    if path is not None:
        raise UsageError(
            f"the plugin library {path} cannot be loaded: the Python plugins are already registered",
            fix=f"set {LIBRARY_VARIABLE}, or call register_plugins(trt, library), before anything of imp_trt "
            "builds or loads an engine",
        )
    return "python"


def _load(trt: TensorRT, registry: IPluginRegistry, path: Path) -> None:
    fix = "build it as plugins/tensorrt/README.md says, or leave the library out to use the Python plugins"
    if not path.is_file():
        raise DependencyMissing(f"the plugin library {path}", got="no such file", fix=fix)
    built_for = _BUILT_FOR.search(path.read_bytes())
    if built_for is None:
        raise DependencyMissing(
            f"{path} as plugin library", got="another file", expected="libimp_trt_plugins.so"
        )
    major = interface_major(trt)
    if int(built_for[1]) != major:
        raise EngineIncompatible(
            f"the plugin library {path}",
            expected=f"built for TensorRT {major}.x ({trt.__name__} {trt.__version__})",
            got="built for TensorRT " + b".".join(built_for.groups()).decode(),
            fix=f"build it against the headers of TensorRT {major}: plugins/tensorrt/README.md",
        )
    registry.load_library(str(path.resolve()))
    if not set(plugin_names()) <= _registered(registry):
        raise DependencyMissing(
            f"the plugin library {path}", got="TensorRT cannot load it, see its log", fix=fix
        )


def interface_major(trt: TensorRT) -> int:
    """The major version of a module's plugin interfaces; a library is built for one of them."""
    return _RTX_INTERFACES_OF if trt.__name__ == "tensorrt_rtx" else int(trt.__version__.split(".")[0])
