"""The custom operators: instance mask projection and multilevel RoIAlign. Names are fetched on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.ops.mask_projection.numpy import (
        instance_mask_projection_numpy as instance_mask_projection_numpy,
    )
    from imp_trt.ops.mask_projection.numpy import paste_masks as paste_masks
    from imp_trt.ops.mask_projection.reference import (
        instance_mask_projection_reference as instance_mask_projection_reference,
    )
    from imp_trt.ops.mask_projection.torch import instance_mask_projection as instance_mask_projection
    from imp_trt.ops.roi_align.torch import pyramid_roi_align as pyramid_roi_align

_HOME = {
    "instance_mask_projection": "imp_trt.ops.mask_projection.torch",
    "instance_mask_projection_numpy": "imp_trt.ops.mask_projection.numpy",
    "instance_mask_projection_reference": "imp_trt.ops.mask_projection.reference",
    "paste_masks": "imp_trt.ops.mask_projection.numpy",
    "pyramid_roi_align": "imp_trt.ops.roi_align.torch",
}

__all__ = [
    "instance_mask_projection",
    "instance_mask_projection_numpy",
    "instance_mask_projection_reference",
    "paste_masks",
    "pyramid_roi_align",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imp_trt.ops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
