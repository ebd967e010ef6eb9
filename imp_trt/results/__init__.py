"""What a network found in a frame: class map, instances, and the forms they are passed on in."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
