# SPDX-License-Identifier: Apache-2.0
"""Instance mask projection: kernels and TensorRT plugin; README.md is the contract."""
