# SPDX-License-Identifier: Apache-2.0
"""The facade over a network whose answer is known."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import imp_trt
from imp_trt.artifacts.manifest import InputContract
from imp_trt.errors import ArtifactError, InvalidInput, SourceError
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.segmenter import Segmenter
from imp_trt.video import open_source
from tests.support import tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture(scope="module")
def batch_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.artifact(tmp_path_factory.mktemp("artifact"), batch=3)


@pytest.fixture
def segmenter(path: Path) -> Iterator[Segmenter]:
    with Segmenter(path, threads=1) as opened:
        yield opened


def expected(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    transform = LetterboxTransform.of(frame.shape[:2], InputContract(height=tiny.HEIGHT, width=tiny.WIDTH))
    return transform.invert_mask(tiny.truth(transform.apply(frame)))


def test_public_name_and_attributes(segmenter: Segmenter) -> None:
    assert isinstance(segmenter, imp_trt.Segmenter)
    assert segmenter.classes == tiny.CLASSES
    assert segmenter.manifest.precision == "fp32"
    assert repr(segmenter) == "Segmenter(onnx, 96x64 fp32, 4 classes)"


@pytest.mark.parametrize(
    "size", [(64, 96), (128, 192), (360, 480), (33, 47), (1080, 1920), (1, 1), (300, 20)]
)
def test_answers_come_in_the_frames_pixels(segmenter: Segmenter, size: tuple[int, int]) -> None:
    frame = tiny.frame(*size)
    result = segmenter.run(frame)
    assert result.size == result.semantic.shape == size
    assert np.array_equal(result.semantic, expected(frame))
    if size == (128, 192):
        assert result.instances.boxes.tolist() == (2 * tiny.BOXES[:2]).tolist()
        assert result.instances.labels.tolist() == [2, 3]
        assert result.instances.scores.tolist() == tiny.SCORES[:2].tolist()
        inside = result.instances.paste()[0]
        assert inside[60:100, 24:96].all()
        assert not inside[:, 104:].any()


def test_boxes_in_the_padding_are_clipped_but_their_masks_are_not_squeezed(segmenter: Segmenter) -> None:
    # 64 x 64 of the network's 64 x 96 hold the image: the first box ends inside, the second sticks out.
    result = segmenter.run(tiny.frame(128, 128))
    boxes = result.instances.boxes
    assert boxes.tolist() == [[20, 40, 100, 104], [120, 16, 128, 80]]
    assert result.instances.mask_boxes is not None
    assert result.instances.mask_boxes[1].tolist() == [120, 16, 152, 80]
    # Columns 2-5 of 8 are filled: 120 + 8 is where they begin, just outside.
    assert not result.instances.paste()[1].any()


def test_color_order(segmenter: Segmenter) -> None:
    for size in ((64, 96), (90, 70)):
        frame = tiny.frame(*size)
        rgb = np.ascontiguousarray(frame[..., ::-1])
        wanted = segmenter.run(frame).semantic
        assert np.array_equal(segmenter.run(rgb, color="rgb").semantic, wanted)
        assert np.array_equal(segmenter.run(Image.fromarray(rgb)).semantic, wanted)
        assert not np.array_equal(segmenter.run(rgb).semantic, wanted)


@pytest.mark.parametrize("size", [(64, 96), (70, 50)])
def test_frames_are_not_changed_and_results_do_not_alias(segmenter: Segmenter, size: tuple[int, int]) -> None:
    frame = tiny.frame(*size)
    frame.flags.writeable = False
    before = frame.copy()
    first = segmenter.run(frame)
    kept = first.semantic.copy()
    segmenter.run(tiny.frame(*size, seed=5))
    assert np.array_equal(frame, before)
    assert np.array_equal(first.semantic, kept)
    assert not np.shares_memory(first.semantic, frame)


def test_repeated_runs_are_bit_identical(path: Path) -> None:
    frame = tiny.frame(99, 77)
    with Segmenter(path, threads=1) as a, Segmenter(path, threads=1) as b:
        results = [a.run(frame), a.run(frame), b.run(frame), a(frame)]
    for other in results[1:]:
        assert np.array_equal(results[0].semantic, other.semantic)
        assert results[0].instances.boxes.tobytes() == other.instances.boxes.tobytes()
        assert results[0].instances.masks.tobytes() == other.instances.masks.tobytes()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7])
def test_batches_are_split_and_filled_up(batch_path: Path, count: int) -> None:
    frames = [tiny.frame(40 + 13 * i, 96, seed=i) for i in range(count)]
    with Segmenter(batch_path) as segmenter:
        results = segmenter.run_batch(frames)
        alone = [segmenter.run(frame) for frame in frames]
    assert len(results) == count
    for frame, result, single in zip(frames, results, alone, strict=True):
        assert np.array_equal(result.semantic, expected(frame))
        assert np.array_equal(result.semantic, single.semantic)
        assert result.instances.boxes.tobytes() == single.instances.boxes.tobytes()


def test_batches_take_mixed_kinds_of_frames(batch_path: Path) -> None:
    frame = tiny.frame(50, 60)
    with Segmenter(batch_path) as segmenter:
        results = segmenter.run_batch([frame, Image.fromarray(frame[..., ::-1].copy())])
    assert np.array_equal(results[0].semantic, results[1].semantic)


class LoadedFrames(Sequence[NDArray[np.uint8]]):
    """Frames that are loaded one by one, as a dataset has them."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int) or not 0 <= index < len(self):
            raise IndexError(index)
        return tiny.frame(seed=index)


@pytest.mark.parametrize("kind", [list, tuple, deque, np.stack, lambda frames: frames])
def test_batches_of_any_sequence(batch_path: Path, kind: Callable[[Any], Any]) -> None:
    with Segmenter(batch_path) as segmenter:
        results = segmenter.run_batch(kind(LoadedFrames()))
    assert len(results) == 4
    for i, result in enumerate(results):
        assert np.array_equal(result.semantic, tiny.truth(tiny.frame(seed=i)))


@pytest.mark.parametrize("which", ["path", "batch_path"])
def test_stream_is_lazy_and_in_order(which: str, request: pytest.FixtureRequest) -> None:
    taken = []

    def source() -> Iterator[NDArray[np.uint8]]:
        for i in range(5):
            taken.append(i)
            yield tiny.frame(seed=i)

    with Segmenter(request.getfixturevalue(which)) as segmenter:
        stream = segmenter.stream(source())
        assert taken == []
        first = next(stream)
        assert len(taken) == segmenter.manifest.input.batch
        results = [first, *stream]
    assert len(results) == 5
    for i, result in enumerate(results):
        assert np.array_equal(result.semantic, tiny.truth(tiny.frame(seed=i)))
        assert result.frame is not None
        assert result.plot().shape == (64, 96, 3)


def test_stream_opens_sources_and_converts_colors(segmenter: Segmenter, tmp_path: Path) -> None:
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), tiny.frame(seed=i))
    with open_source(tmp_path) as source:
        results = list(segmenter.stream(source))
    assert np.array_equal(results[1].semantic, tiny.truth(tiny.frame(seed=1)))
    (rgb,) = segmenter.stream([tiny.frame()[..., ::-1]], color="rgb")
    assert rgb.frame is not None
    assert np.array_equal(rgb.frame, tiny.frame())  # kept as BGR, ready to draw on
    with pytest.raises(SourceError, match="nothing at this path"):
        open_source(tmp_path / "absent.mp4")


def test_stream_of_a_path_is_deprecated(segmenter: Segmenter, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), tiny.frame(seed=1))
    with pytest.warns(DeprecationWarning, match="open_source"):
        (result,) = segmenter.stream(tmp_path)
    assert np.array_equal(result.semantic, tiny.truth(tiny.frame(seed=1)))


def test_a_failing_source_ends_the_stream_with_its_error(segmenter: Segmenter) -> None:
    def source() -> Iterator[NDArray[np.uint8]]:
        yield tiny.frame()
        raise RuntimeError("unplugged")

    stream = segmenter.stream(source())
    next(stream)
    with pytest.raises(RuntimeError, match="unplugged"):
        next(stream)


def test_bad_frames_leave_the_segmenter_usable(segmenter: Segmenter) -> None:
    for bad in (None, "x.jpg", tiny.frame()[..., 0], tiny.frame().astype(np.float32), tiny.frame()[:0]):
        with pytest.raises(InvalidInput, match="frame"):
            segmenter.run(bad)
    with pytest.raises(InvalidInput, match="color"):
        segmenter.run(tiny.frame(), color="hsv")
    assert segmenter.run(tiny.frame()).size == (64, 96)


def test_closing(path: Path) -> None:
    segmenter = Segmenter(path)
    segmenter.warmup()
    segmenter.close()
    segmenter.close()
    assert "closed" in repr(segmenter)
    for use in (
        lambda: segmenter.run(tiny.frame()),
        segmenter.warmup,
        lambda: segmenter.run_batch([tiny.frame()]),
    ):
        with pytest.raises(InvalidInput, match="closed"):
            use()
    assert segmenter.classes == tiny.CLASSES  # still there to interpret earlier results


def test_timing(segmenter: Segmenter) -> None:
    timing = segmenter.run(tiny.frame(200, 200)).timing
    assert set(timing) == {"pre", "infer", "post", "total"}
    assert timing["total"] == pytest.approx(timing["pre"] + timing["infer"] + timing["post"])
    assert all(value > 0 for value in timing.values())


def test_threads_are_served_one_after_the_other(path: Path) -> None:
    frames = [tiny.frame(60 + i, 90, seed=i) for i in range(8)]
    failures: list[object] = []
    with Segmenter(path, threads=1) as segmenter:
        wanted = [segmenter.run(frame).semantic for frame in frames]

        def work(i: int) -> None:
            for _ in range(20):
                if not np.array_equal(segmenter.run(frames[i]).semantic, wanted[i]):
                    failures.append(i)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


class WildBackend:
    """Gives what no good network would."""

    def __init__(self, outputs: dict[str, NDArray[np.generic]]) -> None:
        self.outputs = outputs
        self.manifest = tiny.manifest()

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        return self.outputs

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("count", "row", "change"),
    [
        (4, 0, {"boxes": [np.nan, 0, 5, 5]}),
        (4, 0, {"boxes": [0, 0, np.inf, 5]}),
        (4, 0, {"boxes": [9, 9, 5, 5]}),
        (4, 0, {"boxes": [200, 9, 300, 12]}),
        (4, 0, {"scores": np.nan}),
        (4, 0, {"scores": np.inf}),
        (4, 0, {"scores": -0.5}),
        (4, 0, {"labels": 4}),
        (4, 0, {"labels": -1}),
        (1 << 30, 0, {"labels": 99}),
    ],
)
def test_instances_that_cannot_be_are_left_out(
    path: Path, monkeypatch: pytest.MonkeyPatch, count: int, row: int, change: dict[str, object]
) -> None:
    outputs = {
        "semantic": np.zeros((1, 64, 96), np.uint8),
        "boxes": tiny.BOXES[None].copy(),
        "scores": tiny.SCORES[None].copy(),
        "labels": tiny.LABELS[None].copy(),
        "masks": tiny.MASKS[None].copy(),
        "num_detections": np.array([count], np.int32),
    }
    for name, value in change.items():
        outputs[name][0, row] = value
    monkeypatch.setattr("imp_trt.segmenter.open_backend", lambda *a, **k: WildBackend(outputs))
    result = Segmenter(path).run(tiny.frame())
    assert result.instances.labels.tolist() == [3]
    assert result.plot(tiny.frame()).shape == (64, 96, 3)


def test_a_negative_count_means_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {
        "semantic": np.zeros((1, 64, 96), np.uint8),
        "boxes": tiny.BOXES[None],
        "scores": tiny.SCORES[None],
        "labels": tiny.LABELS[None],
        "masks": tiny.MASKS[None],
        "num_detections": np.array([-7], np.int32),
    }
    monkeypatch.setattr("imp_trt.segmenter.open_backend", lambda *a, **k: WildBackend(outputs))
    assert len(Segmenter(path).run(tiny.frame()).instances) == 0


def test_score_threshold_leaves_instances_out(path: Path) -> None:
    frame = tiny.frame()
    for threshold, scores in ((0.0, [0.9, 0.6]), (0.6, [0.9, 0.6]), (0.61, [0.9]), (1.0, [])):
        with Segmenter(path, threads=1, score_threshold=float(np.float32(threshold))) as segmenter:
            result = segmenter.run(frame)
            assert result.instances.scores.tolist() == pytest.approx(scores)
            assert np.array_equal(result.semantic, tiny.truth(frame))


@pytest.mark.parametrize(
    ("changes", "threshold", "warned"),
    [
        ({"score_threshold": 0.3}, 0.1, "leaves out instances with scores below 0.3"),
        ({"score_threshold": 0.3}, 0.3, ""),
        ({"score_threshold": 0.3}, 0.0, ""),  # all that there are
        ({}, 0.1, ""),  # written before it was recorded
        ({"detections": 0}, 0.1, "has no detector"),
        ({"detections": 0}, 0.0, ""),
    ],
)
def test_a_score_threshold_without_effect_is_a_warning(
    path: Path,
    changes: dict[str, float],
    threshold: float,
    warned: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = WildBackend({})
    backend.manifest = tiny.manifest(**changes)
    monkeypatch.setattr("imp_trt.segmenter.open_backend", lambda *a, **k: backend)
    Segmenter(path, score_threshold=threshold)
    assert warned in caplog.text
    assert ("has no effect" in caplog.text) == bool(warned)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5", None])
def test_an_impossible_score_threshold_is_rejected(path: Path, threshold: float) -> None:
    with pytest.raises(InvalidInput, match="score_threshold"):
        Segmenter(path, score_threshold=threshold)


def test_a_result_knows_the_size_of_the_networks_class_map(segmenter: Segmenter) -> None:
    assert segmenter.run(tiny.frame(640, 960)).network_size == (64, 96)
    assert segmenter.run(tiny.frame(100, 300)).network_size == (32, 96)


def test_a_tensor_on_the_cpu_is_a_frame(segmenter: Segmenter) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    frame = tiny.frame(128, 192)
    assert np.array_equal(segmenter.run(torch.from_numpy(frame)).semantic, segmenter.run(frame).semantic)


@pytest.mark.parametrize("kind", ["generator", "dict", "set"])
def test_a_batch_is_a_sequence(segmenter: Segmenter, kind: str) -> None:
    frame = tiny.frame()
    frames = {"generator": (frame for _ in range(2)), "dict": {0: frame}, "set": {1, 2}}[kind]
    with pytest.raises(InvalidInput, match="list\\(frames\\)"):
        segmenter.run_batch(frames)  # type: ignore[arg-type]


def test_without_a_current_folder_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gone = tiny.artifact(tmp_path), tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ArtifactError, match="nothing at this path"):
        Segmenter(path.name)
    with Segmenter(path) as segmenter:
        assert len(segmenter.run(tiny.frame()).instances) == 2


def test_a_path_is_rejected_with_the_call_that_reads_it(segmenter: Segmenter) -> None:
    with pytest.raises(InvalidInput, match=r"run\(cv2\.imread\(path\)\)"):
        segmenter.run("photo.jpg")
    with pytest.raises(InvalidInput, match="run_batch"):
        segmenter.run([tiny.frame(), tiny.frame()])
