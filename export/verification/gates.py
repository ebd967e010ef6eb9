# SPDX-License-Identifier: Apache-2.0
"""Gates: the minimum agreement of an exported network with the trained one, pooled over frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest, Precision
from imp_trt.errors import VerificationError

VerifiedOn = Literal["engine", "onnxruntime-cpu", "pytorch"]
"""What was compared with PyTorch in float32."""

ENGINE: VerifiedOn = "engine"
ONNXRUNTIME: VerifiedOn = "onnxruntime-cpu"
PYTORCH: VerifiedOn = "pytorch"

MIN_SCORE = 0.3
MIN_IOU = 0.9
MAX_SCORE_DIFFERENCE = 0.02
MIN_MASK_IOU = 0.5
"""For masks that are wrong: those of the bundled networks in int8 have 0.78 and more, 0.99 on average."""


@dataclass(frozen=True)
class Gate:
    """Minimum agreement with PyTorch in float32.

    Attributes:
        labels: fraction of pixels with the same class.
        instances: F1 of detections, see :func:`match_instances`; None for no gate.
        miou_drop: maximum loss of mIoU in percentage points, on frames with ground truth.
    """

    labels: float
    instances: float | None
    miou_drop: float


GATES: dict[Precision, Gate] = {
    "fp32": Gate(0.9999, 0.99, 0.1),
    "fp16": Gate(0.998, 0.97, 0.1),
    "bf16": Gate(0.995, None, 0.3),
    "int8": Gate(0.98, 0.90, 1.0),
    "fp8": Gate(0.98, 0.90, 1.0),
}
"""Gates by precision."""


def gate_of(manifest: Manifest) -> Gate:
    """The gate that an artifact was exported with, or that of its precision."""
    default = GATES[manifest.precision]
    entry = manifest.verification.get("gates")
    if not isinstance(entry, Mapping):
        return default
    labels, instances = entry.get("label_agreement"), entry.get("instance_f1")
    drop = entry.get("miou_drop_points")
    if not isinstance(labels, float | int) or not isinstance(drop, float | int):
        return default
    return Gate(float(labels), float(instances) if isinstance(instances, float | int) else None, float(drop))


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """Detections of one frame: boxes [N, 4] float32 xyxy, labels [N] int, scores [N] float32.

    Masks [N, P, P] float32 are probabilities in the boxes, or None if they are not compared.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    masks: NDArray[np.float32] | None = None


def box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of boxes [N, 4] and [M, 4] xyxy: [N, M] float64; 0 if both have no area."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a64[:, None, :2], b64[None, :, :2])
    high = np.minimum(a64[:, None, 2:], b64[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=2)
    union = (
        np.prod(a64[:, 2:] - a64[:, :2], axis=1)[:, None] + np.prod(b64[:, 2:] - b64[:, :2], axis=1) - inter
    )
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 0)


def mask_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of the cells above 0.5 of masks [N, P, P] and [M, P, P]: [N, M] float64.

    1 if both are empty. NaN is not above 0.5.
    """
    cells = a.shape[1] * a.shape[2]
    one, other = ((masks > 0.5).reshape(len(masks), cells).astype(np.float32) for masks in (a, b))
    inter = (one @ other.T).astype(np.float64)
    union = one.sum(axis=1)[:, None] + other.sum(axis=1) - inter
    return np.where(union > 0, inter / np.where(union > 0, union, 1), 1)


def match_instances(reference: FrameDetections, candidate: FrameDetections) -> tuple[int, int, int]:
    """Matches the detections of two networks with score >= MIN_SCORE.

    A pair has the same label, IoU >= MIN_IOU, scores within MAX_SCORE_DIFFERENCE, and masks, if both have
    them, with IoU >= MIN_MASK_IOU in their boxes. Candidates are matched
    in descending order of score, each with the free reference of the highest IoU.

    Returns:
        Pairs, detections of the reference, detections of the candidate.
    """
    a, b = reference.scores >= MIN_SCORE, candidate.scores >= MIN_SCORE
    iou = box_iou(candidate.boxes[b], reference.boxes[a])  # [M, N]
    matches = iou >= MIN_IOU
    matches &= candidate.labels[b][:, None] == reference.labels[a]
    difference = candidate.scores[b].astype(np.float64)[:, None] - reference.scores[a]
    matches &= np.abs(difference) <= MAX_SCORE_DIFFERENCE
    if candidate.masks is not None and reference.masks is not None:
        matches &= mask_iou(candidate.masks[b], reference.masks[a]) >= MIN_MASK_IOU
    pairs = 0
    for row in np.argsort(-candidate.scores[b], kind="stable"):
        if matches[row].any():
            taken = int(np.argmax(np.where(matches[row], iou[row], -1)))
            matches[:, taken] = False
            pairs += 1
    return pairs, int(a.sum()), int(b.sum())


@dataclass
class Agreement:
    """Agreement of two networks, pooled over the added frames.

    Attributes:
        frames: number of frames.
        pixels, equal: all pixels, and those with the same class.
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
        instances: tuple[FrameDetections, FrameDetections],
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
        """Fraction of pixels with the same class."""
        return self.equal / self.pixels if self.pixels else 0.0

    @property
    def instance_f1(self) -> float:
        """2 * pairs / (instances of both networks); 1 if there are no instances."""
        total = self.reference + self.candidate
        return 2 * self.matched / total if total else 1.0

    def failures(self, gate: Gate) -> list[str]:
        """One message for each gate that failed."""
        failures = []
        if not self.frames or self.label_agreement < gate.labels:
            failures.append(
                f"labels equal on {self.label_agreement:.4%} of the pixels, gate {gate.labels:.2%}"
            )
        if gate.instances is not None and self.instance_f1 < gate.instances:
            failures.append(f"instance F1 {self.instance_f1:.4f}, gate {gate.instances}")
        if self.unconverged:
            failures.append(f"one more iteration of NMS changes {self.unconverged} keep flags, gate 0")
        if self.miou:
            drop = 100 * (self.miou["reference"] - self.miou["candidate"])
            if drop > gate.miou_drop:
                failures.append(f"mIoU drops by {drop:.2f} points, gate {gate.miou_drop}")
        return failures

    def to_dict(self, gate: Gate) -> dict[str, object]:
        """Data for the manifest."""
        data: dict[str, object] = {
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


def enforce(
    agreement: Agreement,
    precision: Precision,
    gate: Gate | None = None,
    advice: str = "",
    *,
    exported: bool = False,
) -> None:
    """Check the gates of a precision.

    Args:
        agreement: with PyTorch.
        precision: of the export.
        gate: None means that of the precision.
        advice: what else helps, before the usual.
        exported: an engine was built from an ONNX file of imp-export, which takes no option for checkpoints.

    Raises:
        VerificationError: a gate failed; the message has all failed gates with both values.
    """
    failures = agreement.failures(gate or GATES[precision])
    if not failures:
        return
    if exported:
        fix = (
            "build with --plugin or --no-plugin, whichever was not used, or from a file of another precision "
            "(where the checkpoint is: imp-export --precisions), and report it"
        )
    elif agreement.unconverged:
        fix = "increase --nms-iterations, for example to 64"
    elif precision in ("int8", "fp8"):
        fix = (
            f"{advice}calibrate with more and other images (--calib), verify on more frames (--frames), set "
            "another gate (--gate labels=0.97,instances=0.85), or export fp16"
        )
    elif precision == "bf16":
        fix = "export fp16, and report it with the weights"
    else:
        fix = "find the first node that differs with --bisect, and report it with the weights"
    raise VerificationError(
        f"the exported network's results differ from the trained one's ({agreement.frames} frames)",
        expected=f"the {precision} gates",
        got="; ".join(failures),
        fix=f"{fix}; no file was written",
    )
