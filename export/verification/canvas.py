# SPDX-License-Identifier: Apache-2.0
"""Verification of the canvas part: against PyTorch, and against the whole network that it is a part of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.golden import Golden
from imp_trt.artifacts.manifest import Precision
from imp_trt.backends import CanvasBackend
from imp_trt.backends.canvas import CanvasShape, project_detections
from imp_trt.backends.decoding import HostOutputs
from imp_trt.errors import VerificationError
from imp_trt.export.verification.gates import Gate

WHOLE_FRAMES = 8
"""Number of frames on which both parts of an export are compared with each other."""


@dataclass
class CanvasAgreement:
    """Agreement of class maps that were computed from a given canvas, pooled over frames.

    Attributes:
        frames: frames that were compared with PyTorch, on the canvas of PyTorch's detections.
        pixels, equal: of their network frames, padding included: all, and those with the same class.
        whole_pixels, whole_equal: on the canvas of the whole network's own detections, compared with its own
            class map.
    """

    frames: int = 0
    pixels: int = 0
    equal: int = 0
    whole_pixels: int = 0
    whole_equal: int = 0

    def add(
        self,
        backend: CanvasBackend,
        shape: CanvasShape,
        frames: NDArray[np.uint8],
        reference: Mapping[str, NDArray[Any]],
    ) -> None:
        """Run one batch.

        Args:
            backend: the export; its canvas part is open.
            shape: of the canvas.
            frames: [F, H, W, 3], at most B; the batch is filled up with the last one.
            reference: PyTorch's outputs [F, ...] for them.
        """
        count, batch = len(frames), shape[0]
        rows = np.minimum(np.arange(batch), count - 1)
        filled = np.ascontiguousarray(frames[rows])
        answers = {name: array[rows] for name, array in reference.items()}
        canvas = project_detections(answers, backend.manifest, shape)
        semantic = backend.infer_canvas(filled, canvas)
        self.equal += int(np.count_nonzero(semantic[:count] == answers["semantic"][:count]))
        self.pixels += semantic[:count].size
        if self.frames < WHOLE_FRAMES:
            own = backend.infer(filled)
            semantic = backend.infer_canvas(filled, project_detections(own, backend.manifest, shape))
            self.whole_equal += int(np.count_nonzero(semantic == own["semantic"]))
            self.whole_pixels += semantic.size
        self.frames += count

    @property
    def label_agreement(self) -> float:
        """Fraction of pixels with PyTorch's class."""
        return self.equal / self.pixels if self.pixels else 0.0

    @property
    def equal_to_whole(self) -> float:
        """Fraction of pixels with the class of the whole network."""
        return self.whole_equal / self.whole_pixels if self.whole_pixels else 0.0

    def failures(self, gate: Gate) -> list[str]:
        """One message for each fraction below the gate's for labels."""
        least = gate.labels
        return [
            f"class maps of the canvas part equal to {what} on {value:.4%} of the pixels, not {least:.2%}"
            for what, value in (("PyTorch", self.label_agreement), ("the whole network", self.equal_to_whole))
            if value < least
        ]

    def enforce(self, precision: Precision, gate: Gate) -> None:
        """Check both fractions against the gate of an export in this precision.

        Raises:
            VerificationError: a gate failed.
        """
        failures = self.failures(gate)
        if failures:
            raise VerificationError(
                f"canvas part ({self.frames} frames)",
                expected=f"the {precision} gate",
                got="; ".join(failures),
                fix="report this with the weights; no file was written",
            )

    def fractions(self) -> dict[str, object]:
        """Number of frames and both fractions."""
        return {
            "frames": self.frames,
            "label_agreement": round(self.label_agreement, 8),
            "equal_to_whole": round(self.equal_to_whole, 8),
        }

    def to_dict(self, verified_on: str, gate: Gate) -> dict[str, object]:
        """Data for the manifest."""
        return {
            "verified_on": verified_on,
            "against": "pytorch fp32",
            **self.fractions(),
            "gates": {"label_agreement": gate.labels, "equal_to_whole": gate.labels},
        }


def replay_canvas(backend: CanvasBackend, golden: Golden) -> CanvasAgreement:
    """Run the canvas part of a network on its golden frames."""
    shape = backend.open_canvas()
    agreement = CanvasAgreement()
    for start in range(0, len(golden), shape[0]):
        chunk = slice(start, start + shape[0])
        outputs: HostOutputs = {name: array[chunk] for name, array in golden.outputs.items()}
        agreement.add(backend, shape, golden.frames[chunk], outputs)
    return agreement
