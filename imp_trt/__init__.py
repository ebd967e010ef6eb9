"""Instance Mask Projection: train, export, and run segmentation models with low latency.

Importing this package loads neither torch, tensorrt, onnxruntime nor cv2; each name below is
fetched on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.artifacts.artifact import Manifest as Manifest
    from imp_trt.backends.futures import Pending as Pending
    from imp_trt.classes import ClassTable as ClassTable
    from imp_trt.errors import ImpTrtError as ImpTrtError
    from imp_trt.results.result import Instances as Instances
    from imp_trt.results.result import SegmentationResult as SegmentationResult
    from imp_trt.segmenter import Segmenter as Segmenter

__version__ = "0.1.0"

_HOME = {
    "ClassTable": "imp_trt.classes",
    "ImpTrtError": "imp_trt.errors",
    "Instances": "imp_trt.results.result",
    "Manifest": "imp_trt.artifacts.artifact",
    "Pending": "imp_trt.backends.futures",
    "SegmentationResult": "imp_trt.results.result",
    "Segmenter": "imp_trt.segmenter",
}

__all__ = [
    "ClassTable",
    "ImpTrtError",
    "Instances",
    "Manifest",
    "Pending",
    "SegmentationResult",
    "Segmenter",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
