# SPDX-License-Identifier: Apache-2.0
"""Steps of the timed run of samples/on_target, each a program: ``python -m tests.gpu.steps.on_gpu MODULE``."""
