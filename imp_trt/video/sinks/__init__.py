"""Where results go. A sink's files appear whole when it is closed, or not at all when it is aborted."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
