# SPDX-License-Identifier: Apache-2.0
"""From a frame of any size to the input of a network, on the host and on the GPU."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, deprecated={"Fit": "LetterboxTransform"})
