# SPDX-License-Identifier: Apache-2.0
"""Sources, outputs and views of a process in the process that it forks: they stay the parent's."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.errors import OutputError, SourceError
from imp_trt.results.result import SegmentationResult
from imp_trt.video import open_source
from imp_trt.video.serve import BrowserView
from imp_trt.video.sinks import JsonLines, PanopticMaps, Sink
from imp_trt.video.sources import VideoSource
from imp_trt.video.sources.live import LiveSource
from tests.support import clips
from tests.support.forks import LIMIT_S, in_child, living_child
from tests.support.scripted_camera import ScriptedCamera
from tests.video.serve.made import CLASSES, ask, get, segmented, view


def test_a_video(tmp_path: Path) -> None:
    def use() -> None:
        with pytest.raises(SourceError, match="open it after the fork"):
            list(source)
        source.close()

    with open_source(clips.write_clip(tmp_path / "clip.mp4")) as source:
        assert isinstance(source, VideoSource)
        with source._in_use:  # as a thread does that waits for the end of the fork before it reads
            assert in_child(use) == 0
        assert len(list(source)) == 10


def test_garbage_of_the_parent_is_not_freed() -> None:
    """The destructor of a decoder with threads, in a cycle not collected yet, would wait forever."""
    parent = os.getpid()

    class Decoder:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            if os.getpid() != parent:
                os._exit(3)

    gc.disable()
    try:
        Decoder()
        assert in_child(gc.collect) == 0
    finally:
        gc.enable()


def test_a_later_number_of_opencv_threads_survives_a_fork() -> None:
    before = cv2.getNumThreads()
    try:
        for number in (2, 1):
            cv2.setNumThreads(number)
            assert in_child(lambda: None) == 0
            assert cv2.getNumThreads() == number
    finally:
        cv2.setNumThreads(before)


def test_a_camera() -> None:
    camera = ScriptedCamera([0] * 8)
    with LiveSource("camera", camera, latest=False) as source:
        frames = iter(source)
        next(frames)

        def use() -> None:
            with pytest.raises(SourceError, match="open it after the fork"):
                next(frames)
            source.close()
            assert camera.attempts == 1

        with source._slot._changed:  # as its reader has when it hands over a frame
            assert in_child(use) == 0
        assert next(frames).index == 1


@pytest.mark.parametrize("make", [lambda folder: JsonLines(folder / "a.jsonl"), PanopticMaps])
@pytest.mark.parametrize("end", ["close", "abort"])
def test_an_output(tmp_path: Path, make: Callable[[Path], Sink], end: str) -> None:
    (tmp_path / "a.jsonl").write_text("earlier")

    def use() -> None:
        with pytest.raises(OutputError, match="closed sink"):
            sink.write(segmented(1))
        getattr(sink, end)()

    sink = make(tmp_path)
    sink.write(segmented(0))
    assert in_child(use) == 0
    sink.write(segmented(2))
    sink.close()
    text = (tmp_path / ("a.jsonl" if isinstance(sink, JsonLines) else "panoptic.json")).read_text()
    assert [f"{i:06d}" in text for i in range(3)] == [True, False, True]
    assert not list(tmp_path.glob(".*"))


def test_the_threads_of_opencv() -> None:
    """They may hold locks that the child would wait for."""
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        cv2.GaussianBlur(np.zeros((1000, 1000, 3), np.uint8), (31, 31), 3)
        running = len(os.listdir("/proc/self/task"))

        def check() -> None:
            assert cv2.getNumThreads() == 1

        assert in_child(check) == 0
        assert len(os.listdir("/proc/self/task")) <= running - 3
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(before)


def test_a_browser_view() -> None:
    """The child has no part in it: the parent answers, and when it closes the view, the port is free."""
    with view() as shown, closing(ask(shown.port, "/stream")):
        shown.write(segmented())

        def use() -> None:
            shown.write(segmented())
            shown.close()

        with shown._state.frames._changed:  # as the thread of a viewer has it
            assert in_child(use) == 0
        with living_child():
            assert get(shown.port, "/about")[0].status == 200
            shown.close()
            with BrowserView(shown.port, classes=CLASSES):
                assert get(shown.port, "/about")[0].status == 200
    assert in_child(lambda: None) == 0  # a closed one is no trouble


def test_an_overlay_that_a_thread_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, drawn = threading.Event(), threading.Event()
    real = SegmentationResult.plot

    def plot(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            drawing.set()
            drawn.wait(LIMIT_S)
        return real(*arguments, **options)

    monkeypatch.setattr(SegmentationResult, "plot", plot)
    thread = threading.Thread(target=lambda: segmented().overlay)
    thread.start()
    drawing.wait(LIMIT_S)
    try:
        assert in_child(lambda: segmented().overlay) == 0
    finally:
        drawn.set()
        thread.join()
