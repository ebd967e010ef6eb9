"""Instance mask projection: kernels and TensorRT plugin; README.md is the contract."""
