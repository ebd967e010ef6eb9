"""Multi-level RoIAlign: kernels and TensorRT plugin; README.md is the contract."""
