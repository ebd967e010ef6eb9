# SPDX-License-Identifier: Apache-2.0
"""The project's CUDA kernels run on the host under sanitizers."""
