"""The outputs of a network, the same for every way to execute it."""

from __future__ import annotations

OUTPUT_NAMES = ("semantic", "boxes", "scores", "labels", "masks", "num_detections")
"""In the order of the deploy module and of every exported graph."""
