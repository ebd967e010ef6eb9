"""Ways to execute a network: one module per way, one protocol for all."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
