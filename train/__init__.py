# SPDX-License-Identifier: Apache-2.0
"""Training by the recipes of the paper and from scratch, and evaluation."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
