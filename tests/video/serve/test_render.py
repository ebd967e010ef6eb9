# SPDX-License-Identifier: Apache-2.0
"""What is drawn for whom, and what is not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.results.result import Instances, SegmentationResult
from imp_trt.video.serve import render as render_module
from imp_trt.video.serve.frame_store import StoredFrame
from imp_trt.video.serve.render import Renderer, View, encode_jpeg, limit_size, render, upscale
from imp_trt.video.sinks import DrawOptions
from tests.video.serve.made import SIZE, picture, segmented


def seen(layers: str, alpha: float | None = None, **changes: Any) -> np.ndarray[Any, Any]:
    return render(segmented(**changes), View(frozenset(filter(None, layers.split(","))), alpha))


def test_layers() -> None:
    item = segmented()
    assert seen("") is not None
    assert np.array_equal(seen(""), picture(0))
    assert np.array_equal(seen("classes,instances"), item.overlay)
    # Each layer alone changes what it should: a corner of the sky, the car's middle.
    sky, car = (2, 60), (20, 16)
    changed = {
        name: [bool((seen(name)[at] != picture(0)[at]).any()) for at in (sky, car)]
        for name in ("classes", "instances", "canvas", "disagreement")
    }
    assert changed == {
        "classes": [True, True],
        "instances": [False, True],
        "canvas": [True, True],
        "disagreement": [True, True],
    }


def test_the_run_overlay_is_shared_with_other_sinks() -> None:
    item = segmented()
    both = frozenset(("classes", "instances"))
    assert render(item, View(both)) is item.overlay
    assert render(item, View(both, 0.25)) is item.overlay
    assert render(item, View(both, 0.8)) is not item.overlay


def test_canvas_is_bright_where_instances_are_and_dim_elsewhere() -> None:
    lit = seen("canvas").astype(int).sum(axis=2)
    plain = int(picture(0)[0, 0].astype(int).sum())
    assert lit[24, 16] > 2 * plain  # the car of score 0.9
    assert 0 < lit[24, 48] - lit[2, 2] < lit[24, 16] / 2  # the one of score 0.1
    assert lit[2, 62] < plain / 2


@pytest.mark.parametrize("things", [(), (2,)])
def test_canvas_without_instances_is_dim(things: tuple[int, ...]) -> None:
    classes = ClassTable(("a", "b", "c"), things, ((1, 2, 3),) * 3)
    none = Instances(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32),
        np.zeros((0, 4, 4), np.float32), SIZE,
    )  # fmt: skip
    shown = seen("canvas", result=SegmentationResult(np.zeros(SIZE, np.uint8), none, classes))
    assert shown.shape == (*SIZE, 3)
    assert shown.max() < picture(0).max()


def test_disagreement_glows_where_class_map_and_instances_contradict_each_other() -> None:
    # The map of made.result() knows no car: the one of score 0.9 contradicts it, the one of 0.1 hardly.
    glow = seen("disagreement").astype(int)
    level = glow.sum(axis=2)
    assert level[24, 16] > 2 * level[24, 48] > 2 * level[2, 2]
    assert (glow[2, 2] < picture(0)[2, 2]).all(), "where they agree the image is dim"
    assert glow[24, 16, 2] > 1.5 * glow[24, 16, 0], "it glows in yellow and red"
    # It lies over the class colors and under the outlines.
    assert not np.array_equal(seen("classes,disagreement"), seen("disagreement"))
    named = seen("disagreement,instances", draw=DrawOptions(labels=False))
    assert not np.array_equal(named, seen("disagreement"))


def test_disagreement_is_computed_only_for_those_who_watch_it() -> None:
    item = segmented()
    for layers in ("", "classes,instances", "canvas", "classes,instances,canvas"):
        render(item, View(frozenset(filter(None, layers.split(",")))))
    assert "disagreement" not in item.result.__dict__
    render(item, View(frozenset(["disagreement"])))
    assert "disagreement" in item.result.__dict__


def test_instances_follow_the_runs_lowest_score() -> None:
    unsure = (20, 48)
    for score, drawn in ((0.3, False), (0.05, True)):
        shown = seen("instances", draw=DrawOptions(min_score=score, labels=False))
        assert (shown[unsure] != picture(0)[unsure]).any() == drawn


def test_queries() -> None:
    assert View.from_query({}) == View(frozenset(("classes", "instances")))
    assert View.from_query({"layers": "", "alpha": "70"}) == View(frozenset())
    assert View.from_query({"layers": "classes,canvas", "alpha": "34"}).alpha == 0.3
    assert View.from_query({"layers": "disagreement"}).layers == {"disagreement"}
    for query in ({"layers": "clases"}, {"alpha": "x"}, {"alpha": "101"}, {"alpha": "-1"}):
        with pytest.raises(ValueError, match=r"layers|alpha|literal"):
            View.from_query(query)


def test_one_drawing_for_all_who_watch_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def count(item: Any, view: View) -> Any:
        drawn.append(view)
        return render(item, view)

    monkeypatch.setattr(render_module, "render", count)
    renderer, shown = Renderer(), StoredFrame(1, segmented())
    with ThreadPoolExecutor(8) as pool:
        jpegs = set(pool.map(lambda _: renderer.jpeg(shown, View(frozenset())), range(8)))
    assert len(drawn) == len(jpegs) == 1
    renderer.jpeg(shown, View(frozenset(["canvas"])))
    renderer.jpeg(StoredFrame(2, segmented(1)), View(frozenset()))
    assert len(drawn) == 3


def test_small_frames_are_drawn_larger_where_there_are_names_and_outlines() -> None:
    item = segmented()
    large = upscale(item)
    assert large.frame.image.shape == (4 * SIZE[0], 4 * SIZE[1], 3)
    assert np.array_equal(large.result.semantic[::4, ::4], item.result.semantic)
    assert np.array_equal(large.result.instances.boxes, 4 * item.result.instances.boxes)
    assert large.result.instances.paste().mean() == pytest.approx(
        item.result.instances.paste().mean(), rel=0.1
    )
    assert (large.draw, large.age_s, large.frame.index) == (item.draw, item.age_s, item.frame.index)
    sizes = {}
    for layers in ("", "classes", "canvas,disagreement", "instances", "classes,instances"):
        view = View(frozenset(filter(None, layers.split(","))))
        data = np.frombuffer(Renderer().jpeg(StoredFrame(1, item), view), np.uint8)
        sizes[layers] = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[0] // SIZE[0]
    assert sizes == {"": 1, "classes": 1, "canvas,disagreement": 1, "instances": 4, "classes,instances": 4}


@pytest.mark.parametrize(("width", "factor"), [(320, 4), (480, 2), (640, 2), (641, 1), (1280, 1), (3840, 1)])
def test_only_small_frames_are_drawn_larger(width: int, factor: int) -> None:
    size = (5, width)
    none = Instances(
        np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32),
        np.zeros((0, 4, 4), np.float32), size,
    )  # fmt: skip
    wide = SegmentationResult(np.zeros(size, np.uint8), none, segmented().result.classes)
    item = segmented(result=wide)
    object.__setattr__(item.frame, "image", np.zeros((*size, 3), np.uint8))
    assert upscale(item).result.size == (5 * factor, width * factor)
    assert (upscale(item) is item) == (factor == 1)


def test_large_frames_are_made_smaller_and_small_ones_kept() -> None:
    assert limit_size(np.zeros((2160, 3840, 3), np.uint8)).shape == (1080, 1920, 3)
    assert limit_size(np.zeros((1, 9000, 3), np.uint8)).shape == (1, 1920, 3)
    small = picture(0)
    assert limit_size(small) is small
    read = cv2.imdecode(np.frombuffer(encode_jpeg(small), np.uint8), cv2.IMREAD_COLOR)
    assert abs(read.astype(int) - small).max() <= 2
