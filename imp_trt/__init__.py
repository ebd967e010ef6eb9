# SPDX-License-Identifier: Apache-2.0
"""Instance Mask Projection: train, export, and run segmentation models with low latency.

Importing this package loads neither torch, tensorrt, onnxruntime nor cv2; each name is imported on first use.
"""

from imp_trt._lazy import attach_stub

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__, deprecated={"Pending": "ResultFuture"})
__all__ += ["__version__"]
