# SPDX-License-Identifier: Apache-2.0
"""Names of the network outputs, the same for all backends."""

from __future__ import annotations

OUTPUT_NAMES = ("semantic", "boxes", "scores", "labels", "masks", "num_detections")
"""In the order of the deploy module and of every exported graph."""
