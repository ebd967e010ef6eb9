"""The project's CUDA kernels run on the host under sanitizers."""
