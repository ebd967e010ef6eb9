"""CUDA from Python: the driver API, NVRTC, and the launchers of the kernels in imp_trt.plugins.

Nothing is imported here. `driver` holds memory, streams, events and graphs; `kernels` compiles, caches and
launches.
"""
