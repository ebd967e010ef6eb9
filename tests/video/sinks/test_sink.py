# SPDX-License-Identifier: Apache-2.0
"""What all sinks have in common: what was written is kept, and files are whole."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.errors import InvalidInput, OutputError
from imp_trt.results.result import SegmentationResult
from imp_trt.video import sinks
from imp_trt.video.contact_sheet import ContactSheet
from imp_trt.video.sinks import (
    DrawOptions,
    FrameResults,
    JsonLines,
    LegendHistory,
    NullSink,
    OverlayImages,
    OverlayVideo,
    PanopticMaps,
    SegmentedFrame,
    Sink,
)
from imp_trt.video.sources import open_source
from tests.support import tiny
from tests.support.full_disk import full_disk
from tests.video.sinks.conftest import MakeItem

MAKERS: dict[str, tuple[str, Callable[[Path], Sink]]] = {
    "video": ("out.mp4", lambda folder: OverlayVideo(folder / "out.mp4", None)),
    "video by OpenCV": ("out.mp4", lambda folder: OverlayVideo(folder / "out.mp4", None, encoder="opencv")),
    "json": ("out.jsonl", lambda folder: JsonLines(folder / "out.jsonl")),
    "panoptic": ("panoptic.json", PanopticMaps),
}

every_sink = pytest.mark.parametrize("name", MAKERS)


def files(folder: Path) -> list[str]:
    """Names in a folder without the images, which stay."""
    return [name for name in os.listdir(folder) if not name.endswith(".png")]


def test_a_program_may_change_its_folder(
    tmp_path: Path, item: MakeItem, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    Path("earlier.jsonl").write_text("earlier")
    opened = [
        OverlayVideo("out.mp4", None),
        OverlayVideo("out.avi", None),
        JsonLines("earlier.jsonl"),
        PanopticMaps("maps"),
        OverlayImages("images"),
        OverlayImages("pattern/%d.jpg"),
        ContactSheet("sheet.png", [1], 64),
    ]
    for index in range(2):
        for sink in opened:
            sink.write(item(index))
        monkeypatch.chdir(elsewhere)
    for sink in opened:
        sink.close()
    assert not list(elsewhere.iterdir())
    names = {str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()}
    lists = {"out.mp4", "out.avi", "earlier.jsonl", "maps/panoptic.json", "sheet.png"}
    images = {f"{folder}/name{i}.png" for folder in ("maps", "images") for i in range(2)}
    assert names == lists | images | {"pattern/0.jpg", "pattern/1.jpg"}
    assert len(Path(here, "earlier.jsonl").read_text().splitlines()) == 2


def test_a_relative_output_needs_a_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: list[SegmentationResult]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for make in (partial(OverlayVideo, fps=30), JsonLines, PanopticMaps, OverlayImages):
        with pytest.raises(OutputError, match=r"out.mp4 cannot be written.*No such file"):
            make("out.mp4")
    with pytest.raises(OutputError, match="cannot be written"):
        results[0].save("result.npz")


def test_every_name_resolves() -> None:
    assert all(getattr(sinks, name) is not None for name in sinks.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        sinks.Nothing  # noqa: B018


def test_the_overlay_is_drawn_once(results: list[SegmentationResult], item: MakeItem) -> None:
    one = item(draw=DrawOptions(alpha=0.2, labels=False))
    assert one.overlay is one.overlay
    assert np.array_equal(one.overlay, results[0].plot(tiny.frame(), alpha=0.2, labels=False))


def test_the_source_is_the_frames_own(item: MakeItem) -> None:
    one = item()
    assert one.source == ""
    frame = replace(one.frame, source="front")
    assert SegmentedFrame(frame, one.result).source == "front"
    assert SegmentedFrame(frame, one.result, source="rear").source == "rear"


def test_who_wants_overlays() -> None:
    drawing = {name for name in sinks.__all__ if getattr(getattr(sinks, name), "draws", False)}
    assert drawing == {"OverlayImages", "OverlayVideo", "Window"}


def test_null_takes_everything(item: MakeItem) -> None:
    with NullSink() as sink:
        assert sink.write(item())


@every_sink
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("earlier", [True, False])
def test_after_an_exception_the_earlier_file_is_there_or_what_was_written(
    tmp_path: Path, item: MakeItem, name: str, error: BaseException, earlier: bool
) -> None:
    file, make = MAKERS[name]
    if earlier:
        (tmp_path / file).write_text("earlier")
    sink = make(tmp_path)

    def work() -> None:
        with sink:
            sink.write(item())
            raise error

    with pytest.raises(type(error)):
        work()
    left = {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}
    if earlier:
        assert left == {file: b"earlier"}
    else:
        # COCO's panoptic format cannot be read without its end.
        assert list(left) == ([] if name == "panoptic" else [file])
    sink.abort()
    sink.close()
    with pytest.raises(OutputError, match="closed"):
        sink.write(item())
    assert left == {path: (tmp_path / path).read_bytes() for path in files(tmp_path)}


@every_sink
def test_a_failing_replacement_keeps_the_earlier_file(
    tmp_path: Path, item: MakeItem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, make = MAKERS[name]
    (tmp_path / file).write_text("earlier")
    sink = make(tmp_path)
    sink.write(item())

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        sink.close()
    assert files(tmp_path) == [file]
    assert (tmp_path / file).read_text() == "earlier"


@every_sink
def test_a_full_disk_is_an_error_and_leaves_what_can_be_read(
    tmp_path: Path, item: MakeItem, name: str
) -> None:
    file, make = MAKERS[name]
    sink = make(tmp_path)

    def work() -> None:
        with full_disk(60_000), sink:
            for i in range(400):
                sink.write(item(i))

    with pytest.raises(OutputError, match=r"File too large|disk full"):
        work()
    assert files(tmp_path) == ([file] if name in ("video", "json") else [])
    if name == "video":
        with open_source(tmp_path / file) as source:
            assert len(list(source)) > 5
    if name == "json":
        lines = (tmp_path / file).read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
        assert len(lines) > 5


def test_a_frame_on_a_full_disk_leaves_the_ones_before(tmp_path: Path, item: MakeItem) -> None:
    with OverlayImages(tmp_path) as sink:
        sink.write(item(0))
        with full_disk(1000), pytest.raises(OutputError, match="File too large"):
            sink.write(item(1))
    assert os.listdir(tmp_path) == ["name0.png"]


def test_the_legend_of_a_video_keeps_its_rows(results: list[SegmentationResult], item: MakeItem) -> None:
    """A class that leaves the frame stays listed; a frame of its own lists what is in it."""
    legends = LegendHistory()
    assert legends.update((2, 0)) == (2, 0)
    assert legends.update((0, 1)) == (2, 0, 1)
    shown = replace(item(draw=DrawOptions(legend=True)), legends=legends)
    wanted = results[0].plot(shown.frame.image, legend=legends.update(results[0].legend_classes()))
    assert np.array_equal(shown.overlay, wanted)


def test_results_of_the_first_frames(item: MakeItem) -> None:
    sink = sinks.FrameResults(min_score=0.7, limit=2)
    for i in range(5):
        assert sink.write(item(i))
    data = sink.to_dict()
    assert data["results_omitted"] == 3
    kept = data["results"]
    assert isinstance(kept, list)
    assert [frame["index"] for frame in kept] == [0, 1]
    assert all(instance["score"] >= 0.7 for frame in kept for instance in frame["instances"])


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"min_score": 50}, "min_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"alpha": 40}, "alpha"),
        ({"style": "class"}, "style"),
    ],
)
def test_options_out_of_their_range(tmp_path: Path, wrong: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        DrawOptions(**wrong)
    if name == "min_score":
        for make in (FrameResults, partial(JsonLines, tmp_path / "a.jsonl"), partial(PanopticMaps, tmp_path)):
            with pytest.raises(InvalidInput, match=name):
                make(**wrong)
        assert not list(tmp_path.iterdir())


def test_opacity_is_that_of_the_style() -> None:
    assert DrawOptions().opacity == 0.25
    assert DrawOptions(style="classes").opacity == DrawOptions(style="panoptic").opacity == 0.5
    assert DrawOptions(alpha=0.0).opacity == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: OverlayVideo(folder / "o.mkv", 10),
        lambda folder: JsonLines(folder / "r.jsonl"),
        lambda folder: PanopticMaps(folder / "maps"),
    ],
)
@pytest.mark.parametrize("ending", ["close", "abort"])
def test_an_output_has_one_writer(
    tmp_path: Path, item: MakeItem, make: Callable[[Path], Sink], ending: str
) -> None:
    for _ in range(2):  # a finished output may be replaced
        sink = make(tmp_path)
        for frame in range(2):
            with pytest.raises(OutputError, match="nothing else is writing"):
                make(tmp_path)
            sink.write(item(frame))
        getattr(sink, ending)()
    assert not [path for path in tmp_path.rglob(".*")]
