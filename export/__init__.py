"""PyTorch -> ONNX or TensorRT -> verified artifact. Names are fetched on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.export.onnx.from_model import onnx_from_module as onnx_from_module
    from imp_trt.export.onnx.from_model import onnx_with_operators as onnx_with_operators
    from imp_trt.export.options import EngineOptions as EngineOptions
    from imp_trt.export.options import ExportOptions as ExportOptions
    from imp_trt.export.pipeline import ExportReport as ExportReport
    from imp_trt.export.pipeline import export_model as export_model
    from imp_trt.export.pipeline import export_onnx as export_onnx

_HOME = {
    "EngineOptions": "imp_trt.export.options",
    "ExportOptions": "imp_trt.export.options",
    "ExportReport": "imp_trt.export.pipeline",
    "export_model": "imp_trt.export.pipeline",
    "export_onnx": "imp_trt.export.pipeline",
    "onnx_from_module": "imp_trt.export.onnx.from_model",
    "onnx_with_operators": "imp_trt.export.onnx.from_model",
}

__all__ = [
    "EngineOptions",
    "ExportOptions",
    "ExportReport",
    "export_model",
    "export_onnx",
    "onnx_from_module",
    "onnx_with_operators",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt.export' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
