# SPDX-License-Identifier: Apache-2.0
"""Exported networks on disk: the file, its manifest, and the header of an engine."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
