# SPDX-License-Identifier: Apache-2.0
"""Class names in images, whatever OpenCV can draw."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest

from imp_trt.classes import ClassTable
from imp_trt.results import text
from imp_trt.results.image_grid import make_grid
from imp_trt.results.result import Instances, SegmentationResult

NAMES = ("road", "Straße", "vélo", "\u9053\u8def", "Ærø \u2013 \u0142")
PLAIN = ("road", "Strasse", "velo", "class 3", "AEro - l")
CLASSES = ClassTable(NAMES, (1, 3), tuple((40 * i, 200, 10) for i in range(5)))


@pytest.fixture
def opencv_4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "__version__", "4.10.0")
    text.drawn_names.cache_clear()


@pytest.mark.usefixtures("opencv_4")
def test_names_become_ascii_and_that_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="imp_trt"):
        assert text.drawn_names(CLASSES) == PLAIN
        assert text.drawn_names(CLASSES) == PLAIN
    assert len(caplog.records) == 1
    assert "Straße as Strasse" in caplog.text
    assert "class 3" in caplog.text
    assert "road" not in caplog.text


def test_opencv_5_draws_them(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cv2, "__version__", "5.0.0")
    text.drawn_names.cache_clear()
    assert text.drawn_names(CLASSES) == NAMES
    assert not caplog.records


@pytest.mark.usefixtures("opencv_4")
def test_pictures_get_the_names_that_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    put = cv2.putText

    def spy(image, what, *rest):
        written.append(what)
        return put(image, what, *rest)

    monkeypatch.setattr(cv2, "putText", spy)
    frame = np.zeros((240, 320, 3), np.uint8)
    semantic = np.repeat(np.arange(5, dtype=np.uint8), 48)[:, None].repeat(320, 1)
    found = Instances(
        np.array([[60, 50, 200, 150]], np.float32),
        np.array([1], np.int32),
        np.array([0.9], np.float32),
        np.ones((1, 2, 2), np.float32),
        (240, 320),
    )
    result = SegmentationResult(np.ascontiguousarray(semantic), found, CLASSES)
    result.plot(frame, legend=True)
    make_grid([[frame, frame]], ["Größe", "\u9053"], CLASSES)
    assert {*PLAIN, "Strasse 0.90"} | {"Grosse", "?"} <= set(written)
    assert all(what.isascii() for what in written)
