# SPDX-License-Identifier: Apache-2.0
from .adopt import adopt_engine as adopt_engine
from .from_onnx import engine_from_onnx as engine_from_onnx
from .network import export_network as export_network
from .onnx.from_model import onnx_from_module as onnx_from_module
from .onnx.from_model import onnx_with_operators as onnx_with_operators
from .options import EngineOptions as EngineOptions
from .options import ExportOptions as ExportOptions
from .pipeline import export_model as export_model
from .pipeline import export_onnx as export_onnx
from .progress import Progress as Progress
from .report import ExportReport as ExportReport
from .report import NetworkReport as NetworkReport
from .targets import TARGETS as TARGETS
from .targets import Target as Target
