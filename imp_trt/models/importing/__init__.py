# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other code bases: read without executing code, renamed, and loaded into this network."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
