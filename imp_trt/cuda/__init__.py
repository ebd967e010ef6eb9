"""CUDA from Python: the driver API, NVRTC, and the launchers of the kernels in imp_trt.plugins.

Nothing is imported here. `calls` calls the driver, `driver` holds memory, streams, events and graphs, `nvrtc`
compiles, `kernels` caches and launches.
"""
