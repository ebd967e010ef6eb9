# SPDX-License-Identifier: Apache-2.0
"""Side by side: answers first, then turns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imp_trt.benchmark.compare import (
    BLOCK,
    CHECKED_FRAMES,
    MIN_ROUNDS,
    Comparison,
    PyTorchBaseline,
    Round,
    baseline_weights,
    compare,
)
from imp_trt.benchmark.frames import only_frames
from imp_trt.errors import CheckpointError, UsageError, VerificationError
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.weights import bundled
from tests.benchmark.simulated import Clock, Feed
from tests.support import tiny
from tests.support.networks import detecting_network, small_config, smooth_frames


class Scripted:
    """A baseline that takes twice as long, and writes down who was asked when."""

    name, title, notes = "pytorch", "scripted", ("a note",)

    def __init__(self, clock: Clock, milliseconds: float, error: Exception | None = None) -> None:
        self.clock, self.milliseconds, self.error = clock, milliseconds, error
        self.asked: list[tuple[str, int]] = []

    def check(self, images: Sequence[Any]) -> dict[str, Any]:
        self.asked += [("check", int(image[0, 0, 0])) for image in images]
        if self.error:
            raise self.error
        return {"frames": len(images)}

    def run(self, image: Any) -> None:
        self.asked.append(("baseline", int(image[0, 0, 0])))
        self.clock.spend(self.milliseconds)

    def artifact(self, image: Any) -> None:
        self.asked.append(("artifact", int(image[0, 0, 0])))
        self.clock.spend(10)

    def close(self) -> None:
        pass


def side_by_side(baseline: Scripted, seconds: float = 0.0) -> Comparison:
    clock = baseline.clock
    frames = only_frames(Feed(clock))
    return compare(
        baseline.artifact, baseline, frames, clock, lambda s: clock.spend(s * 1e3), seconds=seconds
    )


def test_blocks_alternate_on_the_same_frames_after_the_check() -> None:
    baseline = Scripted(Clock(), 20.0)
    found = side_by_side(baseline)
    checked, rest = baseline.asked[:CHECKED_FRAMES], baseline.asked[CHECKED_FRAMES:]
    assert checked == [("check", i) for i in range(CHECKED_FRAMES)]
    wanted = []
    for round_ in range(MIN_ROUNDS):
        first = CHECKED_FRAMES + round_ * BLOCK
        numbers = [first, *range(first, first + BLOCK)]  # the first call of a block does not count
        wanted += [("artifact", i) for i in numbers] + [("baseline", i) for i in numbers]
    assert rest == wanted
    assert len(found.rounds) == MIN_ROUNDS
    assert all((r.artifact_ms, r.baseline_ms) == pytest.approx((10.0, 20.0)) for r in found.rounds)
    assert found.ratios == pytest.approx((2.0, 2.0, 2.0))
    assert found.agreement == {"frames": CHECKED_FRAMES}
    assert found.notes == ["a note"]


def test_it_goes_on_as_long_as_asked() -> None:
    # A round takes 2 pauses of 50 ms, 5 calls of 10 and of 20 ms, and 4 decodes of 4 ms.
    assert len(side_by_side(Scripted(Clock(), 20.0), seconds=0.266 * 8 - 1e-6).rounds) == 8


def test_what_answers_differently_is_not_timed() -> None:
    baseline = Scripted(Clock(), 20.0, VerificationError("they differ"))
    with pytest.raises(VerificationError):
        side_by_side(baseline)
    assert {who for who, _ in baseline.asked} == {"check"}


def test_the_ratio_has_a_spread() -> None:
    rounds = [Round(10.0, 9.0), Round(10.0, 15.0), Round(20.0, 60.0)]
    found = Comparison("pytorch", "x", rounds).to_dict()
    assert (found["ratio"], found["ratio_min"], found["ratio_max"]) == pytest.approx((1.5, 0.9, 3.0))
    assert (found["artifact_ms"], found["rival_ms"]) == (10.0, 15.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(
        tmp_path_factory.mktemp("baseline") / "a.safetensors", detecting_network(small_config()), {}
    )


@pytest.fixture(scope="module")
def a(weights: Path) -> Iterator[Segmenter]:
    """The "artifact": the same weights once more, which is enough to be compared."""
    with Segmenter(weights, threads=1, device="cpu") as segmenter:
        yield segmenter


IMAGES = [image.numpy() for image in smooth_frames(2)]


def test_pytorch_is_held_to_the_gates_and_run(a: Segmenter, weights: Path) -> None:
    made = PyTorchBaseline(weights, a.manifest, a.run, 1, "cpu")
    found = made.check(IMAGES)
    made.run(IMAGES[0])
    made.close()
    assert found["label_agreement"] == 1.0
    assert found["instances_matched"] == found["instances_pytorch"] > 0
    assert "the same weights" in made.title


def test_wrong_labels_are_rejected(a: Segmenter, weights: Path) -> None:
    def wrong(image: Any) -> SegmentationResult:
        found = a.run(image)
        return replace(found, semantic=(found.semantic + 1) % len(found.classes))

    with pytest.raises(VerificationError, match="nothing is timed") as caught:
        PyTorchBaseline(weights, a.manifest, wrong, 1, "cpu").check(IMAGES)
    assert caught.value.exit_code == 3
    assert "labels" in str(caught.value.got)


def test_missing_objects_are_rejected(a: Segmenter, weights: Path) -> None:
    def blind(image: Any) -> SegmentationResult:
        found = a.run(image)
        return replace(found, instances=found.instances.filter(min_score=1.0))

    with pytest.raises(VerificationError, match="instance F1 0"):
        PyTorchBaseline(weights, a.manifest, blind, 1, "cpu").check(IMAGES)


def test_other_weights_are_rejected_by_their_hash(a: Segmenter, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "b.safetensors", detecting_network(small_config(), 4), {})
    with pytest.raises(CheckpointError, match="sha256"):
        PyTorchBaseline(other, a.manifest, a.run, 1, "cpu")


def test_which_weights() -> None:
    ours = tiny.manifest(weights_sha256=hashlib.sha256(bundled().read_bytes()).hexdigest())
    assert baseline_weights(ours, None) == bundled()
    assert baseline_weights(ours, Path("mine.pt")) == Path("mine.pt")
    with pytest.raises(UsageError, match="--weights FILE"):
        baseline_weights(tiny.manifest(), None)
    with pytest.raises(UsageError, match="run by PyTorch"):
        baseline_weights(replace(tiny.manifest(), kind="checkpoint"), None)
