# SPDX-License-Identifier: Apache-2.0
"""Steps of the timed run of samples/on_target; ``python -m tests.gpu.steps.on_gpu STEP`` runs one."""
