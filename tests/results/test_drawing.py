# SPDX-License-Identifier: Apache-2.0
"""Pictures of results, against a plain drawing of the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.results.drawing import color_map
from imp_trt.results.result import Instances, SegmentationResult
from tests.bench import bench_draw
from tests.support import tiny


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


def named(*boxes: tuple[float, float, float, float], **options: bool) -> NDArray[np.uint8]:
    """A gray picture with the names of cars with these boxes, best first, and nothing else of them."""
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
    listed = named(legend=True)
    rows, columns = (slice(at.min(), at.max() + 1) for at in np.nonzero((listed != GROUND).any(axis=2)))
    straddling = (columns.start + 5, rows.start + 8, columns.start + 30, rows.start + 30)
    assert (named(straddling) != GROUND)[rows, columns].any()
    assert np.array_equal(named(straddling, legend=True)[rows, columns], listed[rows, columns])


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
