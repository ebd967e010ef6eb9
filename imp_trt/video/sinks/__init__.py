# SPDX-License-Identifier: Apache-2.0
"""Sinks for results. Finished work is kept however a run ends; sinks say when their files get their names."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__,
    __file__,
    deprecated={"Base": "BaseSink", "OverlayPictures": "OverlayImages", "Segmented": "SegmentedFrame"},
)
