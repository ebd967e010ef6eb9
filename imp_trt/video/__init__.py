"""Sources, sinks and the way between them. Names are fetched on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.video.frame import Frame as Frame
    from imp_trt.video.interrupts import interrupt_ends as interrupt_ends
    from imp_trt.video.pipeline import run_pipeline as run_pipeline
    from imp_trt.video.serve import BrowserView as BrowserView
    from imp_trt.video.sinks import DrawOptions as DrawOptions
    from imp_trt.video.sinks import Segmented as Segmented
    from imp_trt.video.sinks import overlay_sink as overlay_sink
    from imp_trt.video.sources import open_source as open_source
    from imp_trt.video.statistics import RunSummary as RunSummary
    from imp_trt.video.statistics import Statistics as Statistics
    from imp_trt.video.writer import VideoWriter as VideoWriter

_HOME = {
    "BrowserView": "imp_trt.video.serve",
    "DrawOptions": "imp_trt.video.sinks",
    "Frame": "imp_trt.video.frame",
    "RunSummary": "imp_trt.video.statistics",
    "Segmented": "imp_trt.video.sinks",
    "Statistics": "imp_trt.video.statistics",
    "VideoWriter": "imp_trt.video.writer",
    "interrupt_ends": "imp_trt.video.interrupts",
    "open_source": "imp_trt.video.sources",
    "overlay_sink": "imp_trt.video.sinks",
    "run_pipeline": "imp_trt.video.pipeline",
}

__all__ = [
    "BrowserView",
    "DrawOptions",
    "Frame",
    "RunSummary",
    "Segmented",
    "Statistics",
    "VideoWriter",
    "interrupt_ends",
    "open_source",
    "overlay_sink",
    "run_pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt.video' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
