"""Procedural street scenes with exact semantic and instance labels, from NumPy and OpenCV alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.synthetic.palette import SCENE_CLASSES as SCENE_CLASSES
    from imp_trt.synthetic.street import StreetScenes as StreetScenes
    from imp_trt.synthetic.street import street_video as street_video

_HOME = {
    "SCENE_CLASSES": "imp_trt.synthetic.palette",
    "StreetScenes": "imp_trt.synthetic.street",
    "street_video": "imp_trt.synthetic.street",
}

__all__ = ["SCENE_CLASSES", "StreetScenes", "street_video"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt.synthetic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
