"""Experiments on top of :mod:`imp_trt`; run from a checkout, never installed."""
