# SPDX-License-Identifier: Apache-2.0
"""Procedural street scenes with exact semantic and instance labels, from NumPy and OpenCV alone."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
