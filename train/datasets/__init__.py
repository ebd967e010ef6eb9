# SPDX-License-Identifier: Apache-2.0
"""The datasets that commands open by name, one module per format."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
