# SPDX-License-Identifier: Apache-2.0
"""Results: validated, pasted, drawn and saved."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imp_trt.errors import DependencyMissing, InvalidInput, OutputError
from imp_trt.ops import paste_masks
from imp_trt.ops.mask_projection.options import Sampling
from imp_trt.results.drawing import color_map
from imp_trt.results.result import Instances, SegmentationResult
from tests.support import tiny

SIZE = (tiny.HEIGHT, tiny.WIDTH)


def instances(**changes: Any) -> Instances:
    values: dict[str, Any] = {
        "boxes": tiny.BOXES[:2],
        "labels": tiny.LABELS[:2],
        "scores": tiny.SCORES[:2],
        "masks": tiny.MASKS[:2],
        "size": SIZE,
    }
    return Instances(**(values | changes))


def result(**changes: Any) -> SegmentationResult:
    values: dict[str, Any] = {
        "semantic": tiny.truth(tiny.frame()),
        "instances": instances(),
        "classes": tiny.CLASSES,
        "timing": {"total": 1.5},
    }
    return SegmentationResult(**(values | changes))


NOTHING = {
    "boxes": np.zeros((0, 4), np.float32),
    "labels": np.zeros(0, np.int32),
    "scores": np.zeros(0, np.float32),
    "masks": np.zeros((0, 28, 28), np.float32),
}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"boxes": tiny.BOXES[:3]}, "boxes"),
        ({"boxes": tiny.BOXES[:2].astype(np.float64)}, "boxes"),
        ({"boxes": tiny.BOXES[:2].tolist()}, "boxes"),
        ({"boxes": tiny.BOXES[:2] * np.float32(np.nan)}, "boxes"),
        ({"boxes": tiny.BOXES[:2] + np.float32(np.inf)}, "boxes"),
        ({"labels": tiny.LABELS[:2].astype(np.int64)}, "labels"),
        ({"labels": tiny.LABELS[:1]}, "labels"),
        ({"scores": tiny.SCORES[:2, None]}, "scores"),
        ({"scores": 0.5}, "boxes"),
        ({"masks": tiny.MASKS[:2, :4]}, "masks"),
        ({"masks": tiny.MASKS[0]}, "masks"),
        ({"masks": np.zeros((2, 0, 0), np.float32)}, "masks"),
        ({"mask_boxes": tiny.BOXES[:1]}, "mask_boxes"),
        ({"sampling": "cubic"}, "sampling"),
    ],
)
def test_instances_check_themselves(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        instances(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"semantic": np.zeros(SIZE, np.int32)}, "semantic"),
        ({"semantic": np.zeros((1, *SIZE), np.uint8)}, "semantic"),
        ({"semantic": np.zeros((0, 3), np.uint8)}, "semantic"),
        ({"semantic": None}, "semantic"),
        ({"semantic": np.full(SIZE, 4, np.uint8)}, "semantic"),
        ({"semantic": np.zeros((5, 5), np.uint8)}, "size"),
        ({"instances": instances(labels=np.array([2, 4], np.int32))}, "labels"),
        ({"instances": instances(labels=np.array([-1, 2], np.int32))}, "labels"),
    ],
)
def test_results_check_themselves(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        result(**changes)


def test_ignored_pixels_are_allowed() -> None:
    semantic = tiny.truth(tiny.frame())
    semantic[:3] = 255
    assert result(semantic=semantic).pixel_counts().sum() == semantic.size - 3 * tiny.WIDTH


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (33, 57)])
def test_pixels_are_counted(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    for semantic in (rng.integers(0, 4, shape), np.full(shape, 3), np.full(shape, 255)):
        semantic = semantic.astype(np.uint8)
        counts = result(semantic=semantic, instances=instances(**NOTHING, size=shape)).pixel_counts()
        assert counts.dtype == np.int64
        assert counts.tolist() == [int((semantic == k).sum()) for k in range(4)]
    strided = rng.integers(0, 4, (20, 30)).astype(np.uint8)[::2, ::-3]
    counts = result(semantic=strided, instances=instances(**NOTHING, size=(10, 10))).pixel_counts()
    assert counts.sum() == 100
    assert counts[0] == (strided == 0).sum()


def test_results_are_frozen_and_print_short() -> None:
    found = result()
    with pytest.raises(AttributeError):
        found.semantic = None  # type: ignore[misc]
    assert repr(found) == "SegmentationResult(96x64, 4 classes, 2 instances)"
    assert repr(found.instances) == "Instances(2 in 96x64)"


@pytest.mark.parametrize("sampling", ["bilinear", "nearest", "rect"])
def test_paste_and_crop_agree_with_the_operator(sampling: str) -> None:
    boxes = np.array([[10.3, 20, 50, 52.7], [-20, 8, 76, 99]], np.float32)
    found = instances(mask_boxes=boxes, sampling=sampling)
    wanted = paste_masks(tiny.MASKS[:2], boxes, SIZE, sampling) > 0.5
    assert np.array_equal(found.paste(), wanted)
    for i in range(2):
        mask, x, y = found.crop(i)
        placed = np.zeros(SIZE, bool)
        placed[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        assert np.array_equal(placed, wanted[i])


@pytest.mark.parametrize(
    "box", [[np.nan] * 4, [np.inf] * 4, [5, 5, 5, 9], [9, 9, 5, 5], [500, 500, 600, 600], [-3e38, 0, 3e38, 9]]
)
def test_boxes_that_cannot_be_placed_paste_nothing(box: list[float]) -> None:
    found = instances(mask_boxes=np.array([box, tiny.BOXES[1]], np.float32))
    assert not found.paste()[0].any()
    assert found.crop(0)[0].size == 0
    assert found.paste()[1].any()
    assert result(instances=found).plot(tiny.frame()).shape == (*SIZE, 3)


def test_nothing_found() -> None:
    found = result(instances=instances(**NOTHING))
    assert found.instances.paste().shape == (0, *SIZE)
    assert found.to_dict()["instances"] == []
    assert found.plot(tiny.frame()).shape == (*SIZE, 3)


def test_selection() -> None:
    found = instances()
    assert found.filter(min_score=0.7).labels.tolist() == [2]
    with pytest.warns(DeprecationWarning, match="use Instances.filter") as record:
        assert found.above(0.7).labels.tolist() == [2]
    assert record[0].filename == __file__
    assert found.select(np.array([1, 0])).labels.tolist() == [3, 2]
    assert len(found) == 2


@pytest.mark.parametrize("score", [30, 1.01, float("nan")])
def test_a_score_that_no_instance_has_is_rejected(score: float) -> None:
    """30%, for example: everything would be left out without a word."""
    found = result(frame=tiny.frame())
    uses = (found.plot, found.to_dict, found.to_json, found.legend_classes, found.instances.filter)
    for use in uses:
        with pytest.raises(InvalidInput, match="min_score"):
            use(min_score=score)
    with pytest.raises(InvalidInput, match="min_score"):
        found.to_coco(1, min_score=score)
    for use in (found.instances.paste, lambda threshold: found.instances.crop(0, threshold)):
        with pytest.raises(InvalidInput, match="threshold"):
            use(threshold=score)
    assert len(found.instances.filter(min_score=-1)) == 2
    assert len(found.instances.filter(min_score=1)) == 0


def test_canvas_shows_each_thing_on_its_plane() -> None:
    canvas = result().canvas(scale=1.0)
    assert canvas.shape == (2, *SIZE)
    assert canvas[0, 40, 30] == pytest.approx(0.9 * 0.95, rel=1e-6)
    assert canvas[1, 24, 68] == pytest.approx(0.6 * 0.9, rel=1e-6)
    assert not canvas[0, :, 60:].any()
    stuff = result().classes.__class__(tiny.CLASSES.names, (), tiny.CLASSES.palette)
    assert result(classes=stuff).canvas().shape == (0, 16, 24)
    for scale in (0, -1, math.inf, math.nan):
        for table in (stuff, tiny.CLASSES):
            with pytest.raises(InvalidInput, match=r"^scale"):
                result(classes=table).canvas(scale)


def test_dictionary() -> None:
    found = result().to_dict(min_score=0.7)
    assert found["height"] == 64
    assert sum(found["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert found["instances"] == [{"class": "car", "label": 2, "score": 0.9, "box": [10.0, 20.0, 50.0, 52.0]}]
    assert json.loads(result().to_json(0.7)) == found
    assert "\n" not in result().to_json()


def colors_near(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - color).max(axis=2) <= 3).sum())


def test_plot_blends_class_colors_and_draws_instances() -> None:
    gray = np.full((*SIZE, 3), 100, np.uint8)
    found = result(instances=instances(**NOTHING))
    full = found.plot(gray, alpha=1.0)
    assert np.array_equal(full, color_map(found.semantic, tiny.CLASSES))
    r, g, b = tiny.CLASSES.palette[int(found.semantic[0, 0])]
    assert full[0, 0].tolist() == [b, g, r]
    half = found.plot(gray, alpha=0.5)[0, 0]
    assert np.abs(half.astype(int) - [(b + 100) / 2, (g + 100) / 2, (r + 100) / 2]).max() <= 1
    assert np.array_equal(found.plot(gray, alpha=0.0), gray)
    both = result().plot(gray, alpha=0.0, labels=False)
    inside = both[30:50, 12:48]
    assert (inside != 100).any(axis=2).mean() > 0.9
    assert (both[:, 80:] == 100).all()
    only_car = result().plot(gray, alpha=0.0, labels=False, min_score=0.7)
    assert (only_car[:, 58:] == 100).all()
    assert not np.array_equal(result().plot(gray), result().plot(gray, labels=False))
    assert not np.array_equal(result().plot(gray), result().plot(gray, legend=True))


def test_plot_changes_neither_frame_nor_result() -> None:
    frame, found = tiny.frame(), result()
    before = frame.copy(), found.semantic.copy(), found.instances.masks.copy()
    frame.flags.writeable = False
    found.plot(frame, legend=True)
    assert np.array_equal(frame, before[0])
    assert np.array_equal(found.semantic, before[1])
    assert np.array_equal(found.instances.masks, before[2])


def test_plot_and_save_read_the_frame_in_the_order_that_was_named(tmp_path: Path) -> None:
    bgr, found = tiny.frame(), result()
    rgb = bgr[..., ::-1]
    wanted = found.plot(bgr)
    assert np.array_equal(found.plot(rgb, color="rgb"), wanted)
    assert np.array_equal(found.plot(bgr, color="bgr"), wanted)
    assert np.array_equal(found.plot(Image.fromarray(rgb)), wanted)
    assert not np.array_equal(found.plot(rgb), wanted)
    found.save(tmp_path / "overlay.png", rgb, color="rgb")
    assert np.array_equal(cv2.imread(str(tmp_path / "overlay.png")), wanted)
    kept = result(frame=bgr)
    assert np.array_equal(kept.plot(color="rgb"), wanted)  # a kept frame is BGR, whatever was run
    with pytest.raises(InvalidInput, match="color"):
        found.plot(bgr, color="hsv")


def test_plot_bad_input() -> None:
    with pytest.raises(InvalidInput, match="size"):
        result().plot(tiny.frame(10, 10))
    with pytest.raises(InvalidInput, match="alpha"):
        result().plot(tiny.frame(), alpha=1.5)
    with pytest.raises(InvalidInput, match="plot"):
        result().plot()
    with pytest.raises(InvalidInput, match="COLOR_GRAY2BGR"):
        result().plot(tiny.frame()[..., 0])
    assert np.array_equal(result(frame=tiny.frame()).plot(), result().plot(tiny.frame()))


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (2160, 40)])
def test_plot_at_any_size(size: tuple[int, int]) -> None:
    found = SegmentationResult(
        np.zeros(size, np.uint8),
        instances(boxes=np.array([[0, 0, size[1], size[0]]] * 2, np.float32), size=size),
        tiny.CLASSES,
    )
    assert found.plot(np.zeros((*size, 3), np.uint8), legend=True).shape == (*size, 3)


def test_save(tmp_path: Path) -> None:
    found, frame = result(), tiny.frame()
    found.save(tmp_path / "map.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_UNCHANGED), found.semantic)
    found.save(tmp_path / "overlay.png", frame)
    assert np.array_equal(cv2.imread(str(tmp_path / "overlay.png")), found.plot(frame))
    found.save(tmp_path / "new" / "overlay.JPG", frame)
    assert cv2.imread(str(tmp_path / "new" / "overlay.JPG")).shape == frame.shape
    found.save(tmp_path / "found.json")
    assert len(json.loads((tmp_path / "found.json").read_text())["instances"]) == 2
    found.save(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:  # allow_pickle is off by default
        assert np.array_equal(arrays["masks"], found.instances.masks)
        assert arrays["names"].tolist() == list(tiny.CLASSES.names)


@pytest.mark.parametrize("sampling", ["bilinear", "nearest", "rect"])
def test_instances_come_back_from_an_archive(tmp_path: Path, sampling: Sampling) -> None:
    ids = np.array([7, -1], np.int32)
    found = instances(sampling=sampling, track_ids=ids)
    result(instances=found).save(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        names = ("boxes", "labels", "scores", "masks", "mask_boxes", "track_ids")
        values: dict[str, Any] = {name: arrays[name] for name in names}
        values |= {"size": arrays["semantic"].shape, "sampling": str(arrays["sampling"])}
    again = Instances(**values)
    assert np.array_equal(again.paste(), found.paste())
    assert again.track_ids is not None
    assert again.track_ids.tolist() == [7, -1]


def test_save_errors_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, frame in (
        ("map.jpg", None),
        ("map", None),
        ("overlay.gif", tiny.frame()),
        ("file/x.png", None),
    ):
        with pytest.raises(OutputError):
            result().save(tmp_path / name, frame)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_supervision() -> None:
    pytest.importorskip("supervision", reason="needs supervision")
    found = result()
    detections = found.to_supervision(min_score=0.7)
    assert detections.xyxy.tolist() == [[10, 20, 50, 52]]
    assert detections.confidence.tolist() == pytest.approx([0.9])
    assert detections.class_id.tolist() == [2]
    assert detections["class_name"].tolist() == ["car"]
    assert np.array_equal(detections.mask, found.instances.paste()[:1])
    assert len(found.to_supervision()) == 2
    nothing = result(instances=instances(**NOTHING)).to_supervision()
    assert len(nothing) == 0
    assert len(nothing[nothing.confidence > 0.5]) == 0


def test_supervision_annotates_and_counts() -> None:
    supervision = pytest.importorskip("supervision", reason="needs supervision")
    frame, detections = tiny.frame(), result().to_supervision()
    drawn = supervision.MaskAnnotator().annotate(frame.copy(), detections)
    assert not np.array_equal(drawn, frame)
    left = supervision.PolygonZone(np.array([[0, 0], [55, 0], [55, 63], [0, 63]]))
    assert left.trigger(detections).tolist() == [True, False]


def test_supervision_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[supervision\]"):
        result().to_supervision()


def test_notebooks_show_the_overlay() -> None:
    frame = tiny.frame()
    with_frame = cv2.imdecode(np.frombuffer(result(frame=frame)._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(with_frame, result().plot(frame, legend=True))
    alone = cv2.imdecode(np.frombuffer(result()._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(alone, result().plot(np.full_like(frame, 128), legend=True))


def test_show_needs_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DependencyMissing, match="no display"):
        result().show(tiny.frame())


def test_show_until_a_key_or_the_end_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    calls: list[tuple[Any, ...]] = []
    keys = iter([-1, -1, 27])
    visible = 1.0
    for name in ("namedWindow", "imshow", "destroyWindow"):
        monkeypatch.setattr(cv2, name, lambda *args, name=name: calls.append((name, *args)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, which: visible)
    result().show(tiny.frame(), title="street")
    assert [call[:2] for call in calls] == [(n, "street") for n in ("namedWindow", "imshow", "destroyWindow")]
    assert np.array_equal(calls[1][2], result().plot(tiny.frame(), legend=True))
    assert next(keys, None) is None
    visible, keys = 0.0, iter([-1])
    result().show(tiny.frame(), title="street")


def test_show_without_windows_in_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    def unimplemented(*args: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", unimplemented)
    with pytest.raises(DependencyMissing, match="opencv-python"):
        result().show(tiny.frame())
