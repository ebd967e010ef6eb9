"""Where frames come from: files, cameras, streams. Names are fetched on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.video.frame import Frame as Frame
    from imp_trt.video.sources.addresses import redacted as redacted
    from imp_trt.video.sources.files import VIDEO_SUFFIXES as VIDEO_SUFFIXES
    from imp_trt.video.sources.files import ImageSource as ImageSource
    from imp_trt.video.sources.files import VideoSource as VideoSource
    from imp_trt.video.sources.files import natural_key as natural_key
    from imp_trt.video.sources.live import LiveSource as LiveSource
    from imp_trt.video.sources.opening import open_source as open_source
    from imp_trt.video.sources.source import Source as Source

_HOME = {
    "Frame": "imp_trt.video.frame",
    "ImageSource": "imp_trt.video.sources.files",
    "LiveSource": "imp_trt.video.sources.live",
    "Source": "imp_trt.video.sources.source",
    "VIDEO_SUFFIXES": "imp_trt.video.sources.files",
    "VideoSource": "imp_trt.video.sources.files",
    "natural_key": "imp_trt.video.sources.files",
    "open_source": "imp_trt.video.sources.opening",
    "redacted": "imp_trt.video.sources.addresses",
}

__all__ = [
    "VIDEO_SUFFIXES",
    "Frame",
    "ImageSource",
    "LiveSource",
    "Source",
    "VideoSource",
    "natural_key",
    "open_source",
    "redacted",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt.video.sources' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
