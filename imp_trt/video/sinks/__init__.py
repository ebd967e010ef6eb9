# SPDX-License-Identifier: Apache-2.0
"""Sinks for results. Files appear under their names when a sink is closed, and are removed when it is
aborted."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__,
    __file__,
    deprecated={"Base": "BaseSink", "OverlayPictures": "OverlayImages", "Segmented": "SegmentedFrame"},
)
