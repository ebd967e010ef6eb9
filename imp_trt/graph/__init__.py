# SPDX-License-Identifier: Apache-2.0
"""Changes of third-party ONNX files: instance mask projection behind a detector."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
