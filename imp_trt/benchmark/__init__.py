"""Measuring what a user waits for: every stage of a frame, as percentiles, on the path that apps take."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
