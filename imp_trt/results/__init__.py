# SPDX-License-Identifier: Apache-2.0
"""The result of a network for one frame: class map and instances, drawn, fused and in other formats."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__, __file__, deprecated={"DRAWN_SCORE": "DEFAULT_SCORE_THRESHOLD", "sheet": "make_grid"}
)
