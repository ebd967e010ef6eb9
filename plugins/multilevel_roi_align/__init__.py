# SPDX-License-Identifier: Apache-2.0
"""Multi-level RoIAlign: kernels and TensorRT plugin; README.md is the contract."""
