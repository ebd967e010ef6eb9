# SPDX-License-Identifier: Apache-2.0
"""The contact sheet shows the requested frames, and nothing half-made."""

from __future__ import annotations

import cv2
import pytest

from imp_trt.segmenter import Segmenter
from imp_trt.video.contact_sheet import COLUMNS, ContactSheet, canvas_image
from imp_trt.video.pipeline import run_pipeline
from imp_trt.video.sources import Frame
from tests.support import tiny


def frames(count: int) -> list[Frame]:
    return [Frame(tiny.frame(60, 100, seed=i), i, str(i), None) for i in range(count)]


@pytest.fixture
def segmenter(tmp_path):
    with Segmenter(tiny.artifact(tmp_path)) as opened:
        yield opened


def test_one_row_per_moment_and_one_tile_per_column(segmenter, tmp_path):
    heights = []
    for moments in ([1], [0, 2, 3]):
        path = tmp_path / f"{len(moments)}.png"
        run_pipeline(segmenter, frames(5), [ContactSheet(path, moments, width=50)])
        picture = cv2.imread(str(path))
        assert picture.shape[1] == 50 * len(COLUMNS) + 6 * (len(COLUMNS) - 1)
        heights.append(picture.shape[0])
    assert heights[1] - heights[0] == 2 * (30 + 6)


def test_a_run_that_ends_before_the_first_moment_has_its_last_frame(segmenter, tmp_path):
    """The number of frames of a WebM is an estimate, often a multiple of what it has."""
    run_pipeline(segmenter, frames(2), [ContactSheet(tmp_path / "s.png", [5, 16], width=100)])
    picture = cv2.imread(str(tmp_path / "s.png"))
    assert (picture[26 : 26 + 60, :100] == frames(2)[1].image).all()


def test_the_frame_tile_is_the_frame(segmenter, tmp_path):
    run_pipeline(segmenter, frames(2), [ContactSheet(tmp_path / "s.png", [1], width=100)])
    picture = cv2.imread(str(tmp_path / "s.png"))
    assert (picture[26 : 26 + 60, :100] == frames(2)[1].image).all()


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_that_fails_leaves_a_sheet_of_what_was_done(segmenter, tmp_path, count):
    def broken():
        yield from frames(count)
        raise RuntimeError("camera gone")

    with pytest.raises(RuntimeError, match="camera gone"):
        run_pipeline(segmenter, broken(), [ContactSheet(tmp_path / "s.png", [0])])
    assert (tmp_path / "s.png").exists() == bool(count)


def test_the_canvas_shines_where_instances_are(segmenter):
    result = segmenter.run(tiny.frame(60, 100))
    picture = canvas_image(result)
    assert picture.shape == (30, 50, 3)
    lit = picture.max(axis=2) > 40
    assert lit.any()
    assert not lit.all()
