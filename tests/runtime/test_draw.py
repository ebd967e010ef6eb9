"""Pictures of results, against a plain drawing of the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imp_trt.draw import colour_map
from tests.bench import bench_draw
from tests.support import tiny


@pytest.mark.parametrize("size", [(180, 320), (540, 960)])
def test_the_picture_is_what_a_plain_drawing_shows(size: tuple[int, int]) -> None:
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


def test_colours_of_a_class_map() -> None:
    semantic = np.array([[0, 3], [255, 1]], np.uint8)
    wanted = [tiny.CLASSES.palette[0][::-1], tiny.CLASSES.palette[3][::-1], (0, 0, 0)]
    picture = colour_map(semantic, tiny.CLASSES)
    assert [tuple(picture[p].tolist()) for p in ((0, 0), (0, 1), (1, 0))] == wanted


def test_benchmark_runs() -> None:
    threads = cv2.getNumThreads()
    times = bench_draw.measure((135, 240), 5, repeats=1)
    assert cv2.getNumThreads() == threads
    assert set(times) == {"plot", "plot with legend", "disagreement", "panoptic", "to_coco"}
    assert all(row["best"] > 0 for row in times.values())
