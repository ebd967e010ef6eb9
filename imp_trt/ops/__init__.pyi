# SPDX-License-Identifier: Apache-2.0
from .mask_projection.numpy import instance_mask_projection_numpy as instance_mask_projection_numpy
from .mask_projection.numpy import paste_masks as paste_masks
from .mask_projection.reference import (
    instance_mask_projection_reference as instance_mask_projection_reference,
)
from .mask_projection.torch import instance_mask_projection as instance_mask_projection
from .roi_align.torch import pyramid_roi_align as pyramid_roi_align
