"""Does an exported network do what the trained one does? Gates over arrays, pooled over many frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import VerificationError

MIN_SCORE = 0.3
MIN_IOU = 0.9
MAX_SCORE_DIFFERENCE = 0.02


@dataclass(frozen=True)
class Gate:
    """Least agreement with PyTorch in float32.

    Attributes:
        labels: share of pixels with the same class.
        instances: F1 of detections, see :func:`match_instances`; None where none is set.
        miou_drop: points of mIoU that may be lost where labels exist.
    """

    labels: float
    instances: float | None
    miou_drop: float


GATES = {
    "fp32": Gate(0.9999, 0.99, 0.1),
    "fp16": Gate(0.998, 0.97, 0.1),
    "bf16": Gate(0.995, None, 0.3),
    "int8": Gate(0.98, 0.90, 1.0),
    "fp8": Gate(0.98, 0.90, 1.0),
}
"""Gates by precision."""


@dataclass(frozen=True, eq=False)
class Detected:
    """Detections of one frame: boxes [N, 4] float32 xyxy, labels [N] int, scores [N] float32."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes [N, 4] and [M, 4] xyxy: [N, M]; 0 where both have no area."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a64[:, None, :2], b64[None, :, :2])
    high = np.minimum(a64[:, None, 2:], b64[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    union = (
        np.prod(a64[:, 2:] - a64[:, :2], axis=1)[:, None] + np.prod(b64[:, 2:] - b64[:, :2], axis=1) - inter
    )
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0)


def match_instances(reference: Detected, candidate: Detected) -> tuple[int, int, int]:
    """Pairs up the detections of two networks with score >= MIN_SCORE.

    A pair has the same label, IoU >= MIN_IOU and scores within MAX_SCORE_DIFFERENCE; each detection is in
    one pair at most, candidates choosing by falling score the reference that overlaps most.

    Returns:
        Pairs, detections of the reference, detections of the candidate.
    """
    a, b = reference.scores >= MIN_SCORE, candidate.scores >= MIN_SCORE
    iou = box_iou(candidate.boxes[b], reference.boxes[a])  # [M, N]
    fits = iou >= MIN_IOU
    fits &= candidate.labels[b][:, None] == reference.labels[a]
    gap = candidate.scores[b].astype(np.float64)[:, None] - reference.scores[a]
    fits &= np.abs(gap) <= MAX_SCORE_DIFFERENCE
    pairs = 0
    for row in np.argsort(-candidate.scores[b], kind="stable"):
        if fits[row].any():
            taken = int(np.argmax(np.where(fits[row], iou[row], -1)))
            fits[:, taken] = False
            pairs += 1
    return pairs, int(a.sum()), int(b.sum())


@dataclass
class Agreement:
    """Agreement of two networks, pooled over the frames that were added.

    Attributes:
        frames: frames compared.
        pixels, equal: pixels, and those with the same class.
        matched, reference, candidate: pairs of instances, and instances of either network.
        unconverged: NMS keep flags that one more iteration would have changed.
    """

    frames: int = 0
    pixels: int = 0
    equal: int = 0
    matched: int = 0
    reference: int = 0
    candidate: int = 0
    unconverged: int = 0
    miou: dict[str, float] = field(default_factory=dict)

    def add(
        self,
        semantic: tuple[NDArray[np.uint8], NDArray[np.uint8]],
        instances: tuple[Detected, Detected],
    ) -> None:
        """Count one frame: class maps [h, w] and detections, each of (reference, candidate)."""
        if semantic[0].shape != semantic[1].shape:
            raise VerificationError(
                "class map of the exported network", expected=semantic[0].shape, got=semantic[1].shape
            )
        self.frames += 1
        self.pixels += semantic[0].size
        self.equal += int(np.count_nonzero(semantic[0] == semantic[1]))
        pairs, reference, candidate = match_instances(*instances)
        self.matched += pairs
        self.reference += reference
        self.candidate += candidate

    @property
    def label_agreement(self) -> float:
        """Share of pixels with the same class."""
        return self.equal / self.pixels if self.pixels else 0.0

    @property
    def instance_f1(self) -> float:
        """2 * pairs / (instances of both networks); 1 where neither has any."""
        total = self.reference + self.candidate
        return 2 * self.matched / total if total else 1.0

    def failures(self, gate: Gate) -> list[str]:
        """One sentence per gate that is not held."""
        found = []
        if not self.frames or self.label_agreement < gate.labels:
            found.append(f"labels equal on {self.label_agreement:.4%} of the pixels, gate {gate.labels:.2%}")
        if gate.instances is not None and self.instance_f1 < gate.instances:
            found.append(f"instance F1 {self.instance_f1:.4f}, gate {gate.instances}")
        if self.unconverged:
            found.append(f"one more iteration of NMS changes {self.unconverged} keep flags, gate 0")
        if self.miou:
            drop = 100 * (self.miou["reference"] - self.miou["candidate"])
            if drop > gate.miou_drop:
                found.append(f"mIoU drops by {drop:.2f} points, gate {gate.miou_drop}")
        return found

    def to_dict(self, gate: Gate) -> dict[str, Any]:
        """Plain data for the manifest."""
        data: dict[str, Any] = {
            "frames": self.frames,
            "label_agreement": round(self.label_agreement, 8),
            "instance_f1": round(self.instance_f1, 6),
            "instances": {
                "reference": self.reference,
                "candidate": self.candidate,
                "matched": self.matched,
            },
            "nms_unsettled": self.unconverged,
            "gates": {
                "label_agreement": gate.labels,
                "instance_f1": gate.instances,
                "miou_drop_points": gate.miou_drop,
            },
        }
        if self.miou:
            data["miou"] = {name: round(value, 6) for name, value in self.miou.items()}
        return data


def enforce(agreement: Agreement, precision: str) -> None:
    """Raise if a gate of the precision fails.

    Raises:
        VerificationError: names every gate that failed, with both values.
    """
    failures = agreement.failures(GATES[precision])
    if not failures:
        return
    if agreement.unconverged:
        fix = "increase --nms-iterations, for example to 64"
    else:
        fix = "report this with the weights"
    raise VerificationError(
        f"the exported network does not do what the trained one does ({agreement.frames} frames)",
        expected=f"the {precision} gates",
        got="; ".join(failures),
        fix=f"{fix}; no file was written",
    )
