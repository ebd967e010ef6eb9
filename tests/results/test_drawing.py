# SPDX-License-Identifier: Apache-2.0
"""Images of results, against a plain drawing of the same."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.results.drawing import color_map
from imp_trt.results.result import Instances, SegmentationResult
from imp_trt.results.shading import smooth_map
from tests.bench import bench_draw
from tests.support import tiny


@pytest.mark.slow
@pytest.mark.parametrize("size", [(180, 320), (540, 960)])
def test_the_image_is_what_a_plain_drawing_shows(size: tuple[int, int]) -> None:
    frame, result = bench_draw.street(size, 30)
    assert len(result.instances) >= 15
    picture = result.plot(frame, labels=False)
    bench_draw.check_picture(picture, bench_draw.plain_drawing(frame, result))
    picture[0, 0, 0] ^= 1
    with pytest.raises(SystemExit, match="1 pixels"):
        bench_draw.check_picture(picture, bench_draw.plain_drawing(frame, result))


def test_labels_and_legend_hide_little() -> None:
    frame, result = bench_draw.street((540, 960), 30)
    bare = result.plot(frame, labels=False)
    named, listed = result.plot(frame), result.plot(frame, labels=False, legend=True)
    assert 0.005 < (named != bare).any(axis=2).mean() < 0.15
    changed = (listed != bare).any(axis=2)
    assert changed.mean() < 0.2
    # At the lower left.
    assert changed[270:, :480].sum() > 0.9 * changed.sum()


GROUND = np.full((200, 300, 3), 90, np.uint8)


def named(*boxes: tuple[float, float, float, float], **options: bool | tuple[int, ...]) -> NDArray[np.uint8]:
    """A gray image with the names of cars with these boxes, best first, and nothing else of them."""
    found = Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), 2, np.int32),
        np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        np.zeros((len(boxes), 2, 2), np.float32),
        (200, 300),
    )
    result = SegmentationResult(np.zeros((200, 300), np.uint8), found, tiny.CLASSES)
    return result.plot(GROUND, alpha=0.0, **options)


def labeled(*boxes: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Where names are."""
    return np.asarray((named(*boxes) != GROUND).any(axis=2), np.bool_)


def test_a_name_goes_where_it_hides_no_other_object() -> None:
    assert labeled((100, 80, 140, 120))[60:80].any(), "above, where nothing is in the way"
    crowded = labeled((100, 80, 140, 120), (100, 30, 300, 79))
    assert not crowded[31:79, 101:].any()
    assert crowded[120:140].any()
    # To the left where the right is taken, above and below.
    beside = labeled((100, 80, 140, 120), (142, 0, 300, 200))
    assert not beside[40:79, 143:].any()
    assert beside[40:80, 50:140].any()


def test_names_of_objects_at_the_edge_stay_in_the_image() -> None:
    for box in (
        (280, 80, 300, 120),
        (0, 0, 20, 200),
        (0, 0, 300, 200),
        (250, 0, 300, 4),
        (-1e30, 0, 1e30, 9),
    ):
        assert labeled(box).any(), box
    assert not labeled((500, 500, 600, 600)).any()


def test_a_name_wider_than_the_image_is_left_out() -> None:
    found = Instances(
        np.array([[0, 20, 20, 40]], np.float32), np.full(1, 2, np.int32), np.ones(1, np.float32),
        np.zeros((1, 2, 2), np.float32), (60, 20),
    )  # fmt: skip
    result = SegmentationResult(np.zeros((60, 20), np.uint8), found, tiny.CLASSES)
    frame = np.zeros((60, 20, 3), np.uint8)
    assert np.array_equal(result.plot(frame), result.plot(frame, labels=False))


def test_names_and_legend_do_not_cover_each_other() -> None:
    listed = named(legend=(0, 2))
    rows, columns = (slice(at.min(), at.max() + 1) for at in np.nonzero((listed != GROUND).any(axis=2)))
    straddling = (columns.start + 5, rows.start + 8, columns.start + 30, rows.start + 30)
    assert (named(straddling) != GROUND)[rows, columns].any()
    assert np.array_equal(named(straddling, legend=True)[rows, columns], listed[rows, columns])


def test_the_legend_has_the_order_of_the_table_and_every_labeled_class() -> None:
    """A car of a few pixels is listed, and rows do not change places when areas do."""
    car = instances_at((100, 80, 110, 86))
    mostly_sky = np.zeros((200, 300), np.uint8)
    mostly_sky[60:] = 1
    mostly_road = 1 - mostly_sky
    for semantic in (mostly_sky, mostly_road):
        result = SegmentationResult(semantic, car, tiny.CLASSES)
        assert set(result.legend_classes()) == {0, 1, 2}
        assert result.legend_classes()[0] == 2, "a labeled class comes first if there is little room"
        assert set(result.legend_classes(min_score=0.95)) == {0, 1}
        shown = result.plot(GROUND, alpha=0.0, min_score=0.95, legend=(2, 1, 0))
        chips = [
            np.nonzero((shown == tiny.CLASSES.palette[k][::-1]).all(axis=2))[0].mean() for k in (0, 1, 2)
        ]
        assert chips == sorted(chips), "road, sky, car from top to bottom"


@pytest.mark.parametrize("legend", [(0, 4), [-1], ["car"], "car", 1, None, [1.0]])
def test_a_legend_of_unknown_classes_is_rejected(legend: Any) -> None:
    with pytest.raises(InvalidInput, match="legend: expected True, False or class indices below 4"):
        named(legend=legend)
    assert np.array_equal(named(legend=np.array([1, 2])), named(legend=(1, 2)))


def instances_at(*boxes: tuple[float, float, float, float]) -> Instances:
    """Cars that fill these boxes, best first."""
    return Instances(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.full(len(boxes), 2, np.int32),
        np.linspace(0.9, 0.5, len(boxes), dtype=np.float32),
        np.ones((len(boxes), 2, 2), np.float32),
        (200, 300),
    )


def test_instances_of_one_class_have_different_shades() -> None:
    cars = instances_at((10, 50, 60, 150), (70, 50, 120, 150), (130, 50, 180, 150), (190, 50, 240, 150))
    result = SegmentationResult(np.zeros((200, 300), np.uint8), cars, tiny.CLASSES)
    shown = result.plot(GROUND, labels=False)
    fills = [shown[100, x].astype(int) for x in (35, 95, 155, 215)]
    for i, one in enumerate(fills):
        assert all(np.abs(one - other).sum() > 25 for other in fills[:i])
    # Half of the class's own color over the frame, for the leftmost.
    assert fills[0].tolist() == [116, 45, 45]
    # By position: the order of the scores does not matter.
    swapped = SegmentationResult(result.semantic, cars.select(np.array([2, 0, 3, 1])), tiny.CLASSES)
    again = swapped.plot(GROUND, labels=False)
    assert [again[100, x].tolist() for x in (35, 95, 155, 215)] == [fill.tolist() for fill in fills]


def test_styles() -> None:
    semantic = np.zeros((200, 300), np.uint8)
    semantic[:, 150:] = 1
    result = SegmentationResult(semantic, instances_at((100, 50, 200, 150)), tiny.CLASSES)
    road, sky = (0.5 * 90 + 0.5 * np.array(tiny.CLASSES.palette[k][::-1]) for k in (0, 1))
    classes = result.plot(GROUND, style="classes")
    assert np.allclose(classes[100, 140], road, atol=1)  # no instances, no labels
    assert np.allclose(classes[100, 160], sky, atol=1)
    panoptic = result.plot(GROUND, style="panoptic", labels=False)
    assert np.allclose(panoptic[10, 10], road, atol=1)
    assert np.array_equal(panoptic[100, 140], panoptic[100, 160]), "one segment"
    assert not np.allclose(panoptic[100, 140], road, atol=20)
    assert (panoptic[100, 199] > panoptic[100, 195]).all(), "a light border"
    faint = result.plot(GROUND, labels=False)
    assert np.abs(faint[10, 10].astype(int) - 90).sum() < np.abs(classes[10, 10].astype(int) - 90).sum()
    with pytest.raises(InvalidInput, match="style"):
        result.plot(GROUND, style="fancy")  # type: ignore[arg-type]


def test_void_pixels_keep_the_frame_in_the_panoptic_style() -> None:
    semantic = np.full((200, 300), 2, np.uint8)  # cars, no instance of which is known
    result = SegmentationResult(semantic, instances_at(), tiny.CLASSES)
    assert np.array_equal(result.plot(GROUND, style="panoptic"), GROUND)


def test_edges_of_an_enlarged_class_map_are_smooth() -> None:
    """A diagonal, enlarged eightfold: drawn with the edge where it belongs, not as stairs."""
    small = np.tri(25, 38, dtype=np.uint8)
    enlarged = small.repeat(8, axis=0).repeat(8, axis=1)[:200, :300]
    none = instances_at()
    stairs = SegmentationResult(enlarged, none, tiny.CLASSES)
    smooth = SegmentationResult(enlarged, none, tiny.CLASSES, network_size=(25, 38))

    def deviation(result: SegmentationResult) -> float:
        """Standard deviation of the edge from a straight line, pixels."""
        shown = result.plot(GROUND, style="classes")
        edge = (shown == shown[0, -1]).all(axis=2).argmax(axis=1)[20:180]
        return float(np.std(edge - np.arange(20, 180)))

    assert deviation(stairs) == pytest.approx(np.std(np.arange(8)), abs=0.1)
    assert deviation(smooth) < 0.3 * deviation(stairs)
    moved = (smooth.plot(GROUND, style="classes") != stairs.plot(GROUND, style="classes")).any(axis=2)
    assert 0 < moved.mean() < 0.05, "only at the edge"
    assert np.array_equal(smooth.semantic, enlarged), "the class map itself is not changed"


def test_thin_classes_stay_in_a_smoothed_map() -> None:
    small = np.zeros((25, 38), np.uint8)
    small[:, 20] = 3
    enlarged = small.repeat(8, axis=0).repeat(8, axis=1)
    assert 0.6 < (smooth_map(enlarged, small.shape) == 3).sum() / (enlarged == 3).sum() < 1.4
    assert smooth_map(enlarged, None) is enlarged
    assert smooth_map(enlarged, enlarged.shape) is enlarged


@pytest.mark.parametrize("seed", range(6))
def test_a_smoothed_map_has_no_class_that_was_not_there(seed: int) -> None:
    random = np.random.default_rng(seed)
    small = cv2.resize(random.integers(0, 9, (5, 7), np.uint8), (64, 48), interpolation=cv2.INTER_NEAREST)
    h, w = random.integers(49, 300, 2).tolist()
    enlarged = np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    kept = enlarged.copy()
    smooth = smooth_map(enlarged, small.shape)
    assert set(np.unique(smooth)) == set(np.unique(small))
    assert (smooth != enlarged).mean() < 0.2
    assert np.array_equal(enlarged, kept)


@pytest.mark.parametrize("height", [12, 30, 60, 100])
def test_a_legend_that_is_too_tall_lists_the_largest_classes(height: int) -> None:
    count = 40
    palette = tuple((6 * k, 255 - 6 * k, 3 * k) for k in range(count))
    classes = ClassTable(tuple(f"c{k}" for k in range(count)), (), palette)
    # Forty classes in columns, of falling width.
    semantic = np.repeat(np.arange(count), np.arange(count, 0, -1))[None].repeat(height, 0).astype(np.uint8)
    none = Instances(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32),
        np.zeros((0, 2, 2), np.float32), semantic.shape,
    )  # fmt: skip
    frame = np.full((*semantic.shape, 3), 128, np.uint8)
    result = SegmentationResult(semantic, none, classes)
    listed = result.plot(frame, alpha=0.0, legend=True)
    chips = [bool((listed == palette[k][::-1]).all(axis=2).sum() >= 9) for k in range(count)]
    assert chips == sorted(chips, reverse=True), "the largest first, none left out"
    assert chips[0] == (height >= 60)
    assert (listed[:2] == 128).all(), "it keeps off the edge"


def test_colors_of_a_class_map() -> None:
    semantic = np.array([[0, 3], [255, 1]], np.uint8)
    wanted = [tiny.CLASSES.palette[0][::-1], tiny.CLASSES.palette[3][::-1], (0, 0, 0)]
    picture = color_map(semantic, tiny.CLASSES)
    assert [tuple(picture[p].tolist()) for p in ((0, 0), (0, 1), (1, 0))] == wanted


def test_benchmark_runs() -> None:
    threads = cv2.getNumThreads()
    times = bench_draw.measure((135, 240), 5, repeats=1)
    assert cv2.getNumThreads() == threads
    assert set(times) == {"plot", "plot with legend", "disagreement", "panoptic", "to_coco"}
    assert all(row["best"] > 0 for row in times.values())


@pytest.mark.parametrize("level", [0.5, 256, -1, 128.0, None])
def test_colors_are_integers(level: object) -> None:
    """Fractions of 1, as matplotlib has them, would all be black."""
    palette = ((0, 0, 0), (10, level, 30))
    with pytest.raises(InvalidInput, match="palette: expected RGB triples of integers, 0-255"):
        ClassTable(("a", "b"), (), palette)  # type: ignore[arg-type]
