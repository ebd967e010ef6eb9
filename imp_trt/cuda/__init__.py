# SPDX-License-Identifier: Apache-2.0
"""CUDA from Python: the driver API, NVRTC, and the launchers of the kernels in imp_trt.plugins.

This package imports nothing itself. `calls` calls the driver, `driver` has memory, streams, events and
graphs, `nvrtc` compiles, `kernels` caches and launches.
"""
