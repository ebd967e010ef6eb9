"""Side by side: another way to the same answer, on the same frames, taking turns.

The answers are compared first: what is wrong is not timed. Then blocks of calls alternate, so that a machine
that slows down or is busy for a while hits both.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.errors import CheckpointError, UsageError, VerificationError
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sources.frame import Frame

BLOCK = 4
"""Calls in a row that count; one before them does not, because the other side's threads and caches linger."""

LEAST_ROUNDS = 5
CHECKED_FRAMES = 8
SETTLE_S = 0.05

Image = NDArray[np.uint8]


class Rival(Protocol):
    """What the artifact is compared with.

    Attributes:
        name: "pytorch" or "peer".
        title: what it is, for people.
        notes: what a reader must know about it.
    """

    name: str
    title: str
    notes: list[str]

    def check(self, images: Sequence[Image]) -> dict[str, Any]:
        """Compare answers; plain data about how well they agree.

        Raises:
            VerificationError: they do not.
        """
        ...

    def run(self, image: Image) -> object:
        """One frame, what comes before and after the network included."""
        ...

    def close(self) -> None:
        """Release it; idempotent."""
        ...


@dataclass(frozen=True)
class Round:
    """Medians of one block each, milliseconds a frame."""

    artifact_ms: float
    rival_ms: float

    @property
    def ratio(self) -> float:
        """The rival's time over the artifact's."""
        return self.rival_ms / self.artifact_ms if self.artifact_ms > 0 else float("inf")


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        agreement: what Rival.check said before.
    """

    name: str
    title: str
    rounds: list[Round]
    agreement: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Median, least and greatest over the rounds."""
        found = [r.ratio for r in self.rounds]
        return statistics.median(found), min(found), max(found)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        median, low, high = self.ratios
        return {
            "name": self.name,
            "title": self.title,
            "rounds": len(self.rounds),
            "frames_per_block": BLOCK,
            "artifact_ms": statistics.median(r.artifact_ms for r in self.rounds),
            "rival_ms": statistics.median(r.rival_ms for r in self.rounds),
            "ratio": median,
            "ratio_min": low,
            "ratio_max": high,
            "agreement": self.agreement,
            "notes": self.notes,
        }


def compare(
    run: Callable[[Image], object],
    rival: Rival,
    frames: Iterator[Frame],
    clock: Callable[[], float],
    pause: Callable[[float], object],
    *,
    seconds: float,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Check the rival's answers, then let both take turns on the same frames.

    Args:
        run: the artifact's Segmenter, its answer read.
        frames: without end.
        clock, pause: seconds; time.perf_counter and time.sleep.
        seconds: go on so long, and LEAST_ROUNDS at least.
        progress: called after each round with how many are done.

    Raises:
        VerificationError: the answers differ; nothing is timed.
    """
    agreement = rival.check([next(frames).image for _ in range(CHECKED_FRAMES)])
    rounds: list[Round] = []
    begin = clock()
    while len(rounds) < LEAST_ROUNDS or clock() - begin < seconds:
        images = [next(frames).image for _ in range(BLOCK)]
        first = _block(run, images, clock, pause)
        rounds.append(Round(first, _block(rival.run, images, clock, pause)))
        if progress is not None:
            progress(len(rounds))
    return Comparison(rival.name, rival.title, rounds, agreement, list(rival.notes))


def _block(
    run: Callable[[Image], object],
    images: Sequence[Image],
    clock: Callable[[], float],
    pause: Callable[[float], object],
) -> float:
    """Median milliseconds a frame."""
    pause(SETTLE_S)  # the other library's threads spin for a while after their last call
    run(images[0])
    times = []
    for image in images:
        start = clock()
        run(image)
        times.append((clock() - start) * 1e3)
    return statistics.median(times)


class PyTorchRival:
    """The same weights, eager, in PyTorch; resized and brought back by the same code.

    Args:
        weights: the checkpoint that the artifact was made from.
        manifest: the artifact's.
        segment: the artifact's Segmenter.run, for the check.
        threads: of the network, as the artifact's.
        device: "cpu" or "cuda"; None takes what PyTorch finds.

    Raises:
        CheckpointError: these are other weights.
        DependencyMissing: torch is not installed, or has no such device.
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
                got=f"others, sha256 {digest[:16]}",
                fix="pass the checkpoint that was exported with --weights",
            )
        version = self._eager.manifest.producer.get("torch", "")
        where = "on the CPU" if device == "cpu" else f"on {device or 'what PyTorch finds'}"
        self.title = f"PyTorch {version} eager, float32, {where}, the same weights"
        self.notes: list[str] = []

    def check(self, images: Sequence[Image]) -> dict[str, Any]:
        """Hold the artifact to the gates of its precision, as its export was."""
        from imp_trt.export.verification.gates import GATES, Agreement, Detections

        agreement, gate = Agreement(), GATES[self._manifest.precision]
        for image in images:
            both = self._eager.run(image), self._segment(image)
            a, b = (Detections(r.instances.boxes, r.instances.labels, r.instances.scores) for r in both)
            agreement.add((both[0].semantic, both[1].semantic), (a, b))
        failures = agreement.failures(gate)
        if failures:
            raise VerificationError(
                "artifact and PyTorch answer differently, so no time is counted",
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
        """See :class:`Rival`."""
        return self._eager.run(image)

    def close(self) -> None:
        """See :class:`Rival`."""
        self._eager.close()


def weights_of(manifest: Manifest, given: Path | None) -> Path:
    """The checkpoint of an artifact: the one given, or the bundled one if it was made from that.

    Raises:
        UsageError: there is nothing to compare with, or the weights must be named.
    """
    if manifest.kind == "checkpoint":
        raise UsageError(
            "--compare pytorch", expected="an .onnx or .engine artifact", got="weights, which PyTorch runs"
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
        got="an artifact of weights that are not the bundled ones",
    )
