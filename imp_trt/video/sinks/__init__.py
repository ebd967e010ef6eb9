"""Where results go. A sink's files appear whole when it is closed, or not at all when it is aborted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.video.sinks.lines import JsonLines as JsonLines
    from imp_trt.video.sinks.overlays import DEFAULT_FPS as DEFAULT_FPS
    from imp_trt.video.sinks.overlays import OverlayVideo as OverlayVideo
    from imp_trt.video.sinks.overlays import overlay_sink as overlay_sink
    from imp_trt.video.sinks.panoptic import PanopticMaps as PanopticMaps
    from imp_trt.video.sinks.pictures import ClassMaps as ClassMaps
    from imp_trt.video.sinks.pictures import OverlayPictures as OverlayPictures
    from imp_trt.video.sinks.sink import Base as Base
    from imp_trt.video.sinks.sink import DrawOptions as DrawOptions
    from imp_trt.video.sinks.sink import NullSink as NullSink
    from imp_trt.video.sinks.sink import Segmented as Segmented
    from imp_trt.video.sinks.sink import Sink as Sink
    from imp_trt.video.sinks.window import Window as Window

_HOME = {
    "Base": "sink",
    "ClassMaps": "pictures",
    "DEFAULT_FPS": "overlays",
    "DrawOptions": "sink",
    "JsonLines": "lines",
    "NullSink": "sink",
    "OverlayPictures": "pictures",
    "OverlayVideo": "overlays",
    "PanopticMaps": "panoptic",
    "Segmented": "sink",
    "Sink": "sink",
    "Window": "window",
    "overlay_sink": "overlays",
}

__all__ = [
    "DEFAULT_FPS",
    "Base",
    "ClassMaps",
    "DrawOptions",
    "JsonLines",
    "NullSink",
    "OverlayPictures",
    "OverlayVideo",
    "PanopticMaps",
    "Segmented",
    "Sink",
    "Window",
    "overlay_sink",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
