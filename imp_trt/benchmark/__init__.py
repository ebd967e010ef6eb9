# SPDX-License-Identifier: Apache-2.0
"""Latency and throughput of a model: percentiles of every stage of a frame, measured end to end."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
