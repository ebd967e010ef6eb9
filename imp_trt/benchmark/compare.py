# SPDX-License-Identifier: Apache-2.0
"""Comparison of an artifact with a baseline on the same frames.

The outputs are compared first; wrong outputs are not timed. Then blocks of calls alternate between both, so
that frequency scaling or other load on the machine affects both equally.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.benchmark.gates import REPORT_NAMES
from imp_trt.errors import CheckpointError, UsageError, VerificationError
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sources.frame import Frame

BLOCK = 4
"""Timed calls per block. One untimed call precedes them, because of the other side's threads and caches."""

MIN_ROUNDS = 5
CHECKED_FRAMES = 8
SETTLE_S = 0.05

Image = NDArray[np.uint8]


Agreement = dict[str, "int | float | str"]
"""Measures of the agreement of two models, data for JSON."""


class Baseline(Protocol):
    """A model that the artifact is compared with.

    Attributes:
        name: "pytorch" or "maskrcnn".
        title: description for the report.
        notes: remarks for the report.
    """

    name: str
    title: str
    notes: list[str]

    def check(self, images: Sequence[Image]) -> Agreement:
        """Verify the outputs on images [h, w, 3] uint8 BGR.

        Raises:
            VerificationError: the outputs do not agree.
        """
        ...

    def run(self, image: Image) -> object:
        """Process one frame, including preprocessing and postprocessing."""
        ...

    def close(self) -> None:
        """Release the resources; idempotent."""
        ...


@dataclass(frozen=True)
class Round:
    """Medians of one block of the artifact and one of the baseline, in milliseconds per frame."""

    artifact_ms: float
    baseline_ms: float

    @property
    def ratio(self) -> float:
        """Time of the baseline divided by that of the artifact."""
        return self.baseline_ms / self.artifact_ms if self.artifact_ms > 0 else float("inf")


@dataclass(frozen=True)
class Comparison:
    """Result of a comparison.

    Attributes:
        agreement: result of Baseline.check.
    """

    name: str
    title: str
    rounds: list[Round]
    agreement: Agreement = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Median, minimum and maximum ratio over the rounds."""
        ratios = [r.ratio for r in self.rounds]
        return statistics.median(ratios), min(ratios), max(ratios)

    @property
    def artifact_ms(self) -> float:
        """Median over the rounds, milliseconds per frame."""
        return statistics.median(r.artifact_ms for r in self.rounds)

    @property
    def baseline_ms(self) -> float:
        """Median over the rounds, milliseconds per frame."""
        return statistics.median(r.baseline_ms for r in self.rounds)

    def to_dict(self) -> dict[str, object]:
        """Return the comparison as data for JSON."""
        median, low, high = self.ratios
        return {
            "name": REPORT_NAMES.get(self.name, self.name),
            "title": self.title,
            "rounds": len(self.rounds),
            "frames_per_block": BLOCK,
            "artifact_ms": self.artifact_ms,
            "rival_ms": self.baseline_ms,
            "ratio": median,
            "ratio_min": low,
            "ratio_max": high,
            "agreement": self.agreement,
            "notes": self.notes,
        }


def compare(
    run: Callable[[Image], object],
    baseline: Baseline,
    frames: Iterator[Frame],
    clock: Callable[[], float],
    pause: Callable[[float], object],
    *,
    seconds: float,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Verify the baseline's outputs, then time both alternately on the same frames.

    Args:
        run: runs the artifact on an image and reads the result.
        baseline: the model to compare with.
        frames: an infinite iterator.
        clock, pause: time.perf_counter and time.sleep, or replacements for tests.
        seconds: minimum duration; at least MIN_ROUNDS rounds are timed.
        progress: called after each round with the number of rounds done.

    Raises:
        VerificationError: the outputs differ; nothing is timed.
    """
    agreement = baseline.check([next(frames).image for _ in range(CHECKED_FRAMES)])
    rounds: list[Round] = []
    begin = clock()
    while len(rounds) < MIN_ROUNDS or clock() - begin < seconds:
        images = [next(frames).image for _ in range(BLOCK)]
        first = _block(run, images, clock, pause)
        rounds.append(Round(first, _block(baseline.run, images, clock, pause)))
        if progress is not None:
            progress(len(rounds))
    return Comparison(baseline.name, baseline.title, rounds, agreement, list(baseline.notes))


def _block(
    run: Callable[[Image], object],
    images: Sequence[Image],
    clock: Callable[[], float],
    pause: Callable[[float], object],
) -> float:
    """Return the median time of a block, in milliseconds per frame."""
    pause(SETTLE_S)  # the other library's threads spin for some time after their last call
    run(images[0])
    times = []
    for image in images:
        start = clock()
        run(image)
        times.append((clock() - start) * 1e3)
    return statistics.median(times)


class PyTorchBaseline:
    """The same weights in eager PyTorch, with the same preprocessing and postprocessing.

    Args:
        weights: the checkpoint that the artifact was exported from.
        manifest: manifest of the artifact.
        segment: Segmenter.run of the artifact, for the check.
        threads: CPU threads of the network, the same as for the artifact.
        device: "cpu" or "cuda"; None selects the GPU if PyTorch finds one.

    Raises:
        CheckpointError: the artifact was exported from other weights.
        DependencyMissing: torch is not installed, or the device is not available.
    """

    name = "pytorch"

    def __init__(
        self,
        weights: Path,
        manifest: Manifest,
        segment: Callable[[Image], SegmentationResult],
        threads: int | None,
        device: str | None,
    ) -> None:
        from imp_trt.segmenter import Segmenter

        self._manifest = manifest
        self._segment = segment
        self._eager = Segmenter(weights, "pytorch", threads, device)
        digest = self._eager.manifest.weights_sha256
        if digest != manifest.weights_sha256:
            self._eager.close()
            raise CheckpointError(
                f"weights {weights}",
                expected=f"those of the artifact, sha256 {manifest.weights_sha256[:16]}",
                got=f"other weights, sha256 {digest[:16]}",
                fix="pass the checkpoint that was exported with --weights",
            )
        version = self._eager.manifest.producer.get("torch", "")
        where = "on the CPU" if device == "cpu" else f"on {device or 'the default device'}"
        self.title = f"PyTorch {version} eager, float32, {where}, the same weights"
        self.notes: list[str] = []

    def check(self, images: Sequence[Image]) -> Agreement:
        """Check the artifact against the accuracy gates of its precision, as its export did."""
        from imp_trt.export.verification import gates
        from imp_trt.export.verification.gates import FrameDetections, gate_of

        agreement, gate = gates.Agreement(), gate_of(self._manifest)
        for image in images:
            both = self._eager.run(image), self._segment(image)
            a, b = (
                FrameDetections(i.boxes, i.labels, i.scores, i.masks) for i in (r.instances for r in both)
            )
            agreement.add((both[0].semantic, both[1].semantic), (a, b))
        failures = agreement.failures(gate)
        if failures:
            raise VerificationError(
                "the outputs of artifact and PyTorch differ, so nothing is timed",
                expected=f"the {self._manifest.precision} gates on {len(images)} frames",
                got="; ".join(failures),
                fix="imp-export verifies on more frames; export again",
            )
        return {
            "frames": agreement.frames,
            "label_agreement": round(agreement.label_agreement, 8),
            "instances_matched": agreement.matched,
            "instances_pytorch": agreement.reference,
            "instances_artifact": agreement.candidate,
        }

    def run(self, image: Image) -> object:
        """See :class:`Baseline`."""
        return self._eager.run(image)

    def close(self) -> None:
        """See :class:`Baseline`."""
        self._eager.close()


def baseline_weights(manifest: Manifest, given: Path | None) -> Path:
    """Return the checkpoint of an artifact: the given one, or the bundled one if it was exported from that.

    Raises:
        UsageError: the model is a checkpoint itself, or the weights must be specified.
    """
    if manifest.kind == "checkpoint":
        raise UsageError(
            "--compare pytorch", expected="an .onnx or .engine artifact", got="a checkpoint, run by PyTorch"
        )
    if given is not None:
        return given
    from imp_trt.weights import bundled

    path = bundled()
    if hashlib.sha256(path.read_bytes()).hexdigest() == manifest.weights_sha256:
        return path
    raise UsageError(
        "--compare pytorch",
        expected="--weights FILE, the checkpoint that was exported",
        got="an artifact of other weights than the bundled ones",
    )
