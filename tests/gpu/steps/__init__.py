# SPDX-License-Identifier: Apache-2.0
"""Steps of the timed run of samples/on_target: programs, as ``python -m tests.gpu.steps.on_gpu MODULE``."""
