# SPDX-License-Identifier: Apache-2.0
"""Experiments on top of :mod:`imp_trt`; run from a checkout, never installed."""
