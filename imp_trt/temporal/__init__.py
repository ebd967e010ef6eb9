# SPDX-License-Identifier: Apache-2.0
"""Videos on which the detector does not run on every frame: the canvas is carried from frame to frame."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
