# SPDX-License-Identifier: Apache-2.0
"""Backends: each module runs networks with one library, behind one protocol."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, deprecated={"Pending": "ResultFuture"})
