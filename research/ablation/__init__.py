# SPDX-License-Identifier: Apache-2.0
"""The paper's ablation as one resumable experiment, and the page generated from its results."""
