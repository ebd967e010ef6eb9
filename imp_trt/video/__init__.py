# SPDX-License-Identifier: Apache-2.0
"""Sources of frames, sinks for results, and the pipeline between them."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__,
    __file__,
    deprecated={"Segmented": "SegmentedFrame", "interrupt_ends": "stop_on_interrupt"},
)
