# SPDX-License-Identifier: Apache-2.0
"""imp-segment on cameras, streams and several sources: Ctrl-C, deadlines, the browser view."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from glob import glob
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any
from urllib.request import urlopen

import pytest

from imp_trt.cli.segment import main, parser, progress_note
from imp_trt.video.sources import Frame, LiveSource
from imp_trt.video.sources import VideoSource as open_file
from imp_trt.video.sources.live import RECONNECT_TIMEOUT_S
from tests.support import clips, tiny
from tests.support.rtsp_server import RtspServer
from tests.support.scripted_camera import ScriptedCamera, SimulatedClock

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = ["-a", "model/tiny.fp32.onnx"]
BEFORE = {"in", "model"}


def made() -> set[str]:
    return set(os.listdir()) - BEFORE


class Camera:
    """A scripted live source: gray images every few milliseconds, until it is closed."""

    live = True
    paths: tuple[Path, ...] = ()
    frames = fps = None
    name = "rtsp://***@host/front"
    reconnects, dropped = 1, 2

    def __init__(self) -> None:
        self.interrupts_at: int | None = None
        self._closed = Event()

    def __enter__(self) -> Camera:
        self._closed.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        for index in count():
            if self._closed.wait(0.005):
                return
            if index == self.interrupts_at:
                os.kill(os.getpid(), signal.SIGINT)
            yield Frame(tiny.frame(), index, f"{index:06d}", index / 30)

    def close(self) -> None:
        self._closed.set()


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    made = Camera()
    # In this order: the package reads the name from the module when it is first asked for it.
    monkeypatch.setattr("imp_trt.video.sources.open_source", lambda spec, **_: made)
    monkeypatch.setattr("imp_trt.video.sources.opening.open_source", lambda spec, **_: made)
    return made


def test_a_camera_is_recorded_until_ctrl_c(camera: Camera, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    camera.interrupts_at = 20
    argv = ["rtsp://user:secret@host/front", "o.mp4", "--save-json", "r.jsonl", "--deadline", "10s"]
    assert main([*argv, *MODEL]) == 0
    out, err = capsys.readouterr()
    assert signal.getsignal(signal.SIGINT) is before
    lines = Path("r.jsonl").read_text().splitlines()
    assert out.startswith(f"frames     {len(lines)} in ")
    assert "age        p50 " in out
    assert "1 reconnected, none late" in out
    assert all(json.loads(line)["age_ms"] >= 0 for line in lines)
    with open_file(Path("o.mp4")) as source:
        assert len(list(source)) == len(lines)
    assert "secret" not in out + err


@pytest.mark.parametrize(
    ("argv", "warned"),
    [
        (["o.mp4", "--fps", "30"], True),
        (["o", "--save-overlay", "o.mkv", "--fps", "30"], True),
        (["o.mp4"], False),
        (["o", "--fps", "30"], False),
        (["o", "--save-json", "r.jsonl", "--fps", "30"], False),
    ],
)
def test_a_constant_rate_of_a_camera_is_reported(
    camera: Camera, capsys: pytest.CaptureFixture[str], argv: list[str], warned: bool
) -> None:
    assert main(["0", *argv, "--max-frames", "3", "-q", *MODEL]) == 0
    assert ("warning: --fps 30" in capsys.readouterr().err) == warned


def test_the_second_ctrl_c_interrupts_a_camera_too(
    camera: Camera, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imp_trt.segmenter import Segmenter

    run, calls = Segmenter.run, []

    def interrupted(self: Segmenter, frame: object, color: str | None = None) -> object:
        calls.append(1)
        if len(calls) == 3:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return run(self, frame, color)

    monkeypatch.setattr(Segmenter, "run", interrupted)
    assert main(["0", "o.mp4", *MODEL]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert made() <= {"o.mp4"}  # what was done by then


def test_a_camera_that_stays_away_costs_no_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimulatedClock()
    pictures = ScriptedCamera([tiny.frame(seed=i) for i in range(8)])
    address = "rtsp://user:secret@host/front"
    source = LiveSource(address, pictures, latest=False, clock=clock, sleep=clock.sleep)
    monkeypatch.setattr("imp_trt.video.sources.open_source", lambda spec, **_: source, raising=False)
    argv = [address, "o.mp4", "--save-json", "r.jsonl", "--save-panoptic", "p", "--policy", "wait"]
    assert main([*argv, *MODEL]) == 2
    err = capsys.readouterr().err
    assert "no frame for 300 s" in err
    assert "8 frames" in err
    assert "kept" in err
    assert "secret" not in err
    assert len(Path("r.jsonl").read_text().splitlines()) == 8
    with open_file(Path("o.mp4")) as video:
        assert len(list(video)) == 8
    assert len(json.loads(Path("p/panoptic.json").read_text())["annotations"]) == 8


def test_a_camera_needs_somewhere_to_go(camera: Camera, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["0", *MODEL]) == 2
    assert "--serve" in capsys.readouterr().err
    assert main(["0", "null:", *MODEL, "--max-frames", "3", "--json", "--policy", "wait"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 3
    assert (report["captured"], report["reconnects"], report["deadline_ms"]) == (
        report["frames"] + report["dropped"], 1, None,
    )  # fmt: skip
    assert report["sources"][0]["name"] == "front"


@pytest.mark.parametrize(("options", "rates"), [([], (12, 4)), (["--fps", "7"], (7, 7))])
def test_each_source_keeps_its_frame_rate(
    options: list[str], rates: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    for fps in (12, 4):
        clips.write_clip(Path(f"in/{fps}.mp4"), frames=fps, fps=fps)
    # .avi does not store the times of frames, which hide a wrong rate.
    with caplog.at_level(logging.WARNING, "imp_trt"):
        assert main(["in/12.mp4", "--add-source", "in/4.mp4", "o.avi", *options, *MODEL]) == 0
    assert [open_file(Path(f"o_{name}.avi")).fps for name in (12, 4)] == list(rates)
    assert "off their times" not in caplog.text


def test_several_files_go_to_files_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    clips.write_clip(Path("in/other.mp4"), frames=3)
    argv = ["in/clip.mp4", "--add-source", "in/other.mp4", "o.mp4", "--save-json", "r.jsonl"]
    argv += ["--save-panoptic", "p", "--save-classes", "c", "--save-overlay", "v/%02d.png"]
    assert main([*argv, *MODEL, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {name: len(glob(place.replace("%02d", "*"))) for name, place in report["outputs"].items()}
    assert found == {"overlay": 2, "overlay 2": 8, "classes": 1, "panoptic": 1, "json": 1}
    assert [(s["name"], s["delivered"]) for s in report["sources"]] == [("clip", 5), ("other", 3)]
    assert made() == {"o_clip.mp4", "o_other.mp4", "r.jsonl", "p", "c", "v"}
    assert sorted(os.listdir("p")) == ["clip", "other", "panoptic.json"]
    assert len(os.listdir("c/other")) == 3
    order = [json.loads(line)["source"] for line in Path("r.jsonl").read_text().splitlines()]
    assert order == ["clip", "other"] * 3 + ["clip"] * 2
    assert main(["in/clip.mp4", "--add-source", "in/other.mp4", *MODEL]) == 0
    assert {"segmented_clip.mp4", "segmented_other.mp4"} < made()


def test_a_file_along_with_a_camera_keeps_its_rate(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "imp_trt.video.sources.open_source",
        lambda spec, **_: camera if spec == "0" else open_file(Path(spec)),
        raising=False,
    )
    assert main(["in/clip.mp4", "--add-source", "0", "o.mp4", "--max-frames", "40", *MODEL]) == 0
    with open_file(Path("o_clip.mp4")) as source:
        times = [frame.time_s for frame in source]
    assert times == pytest.approx([i * 1001 / 30000 for i in range(5)], abs=0.002)


@pytest.mark.parametrize("text", ["50ms", "0.05s", "50", " 50 ", ".05s"])
def test_deadlines(text: str) -> None:
    assert parser().parse_args(["x", *MODEL, "--deadline", text]).deadline == pytest.approx(0.05)


@pytest.mark.parametrize("text", ["0", "fast", "-5ms", "5 minutes", "inf", "nan", ""])
def test_deadlines_that_are_none(text: str) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["x", *MODEL, f"--deadline={text}"])


@pytest.mark.parametrize(
    ("text", "wanted"), [("30s", 30.0), ("45", 45.0), ("10m", 600.0), ("never", math.inf)]
)
def test_how_long_a_camera_may_stay_away(text: str, wanted: float) -> None:
    assert parser().parse_args(["x", *MODEL, "--give-up", text]).reconnect_timeout == wanted
    assert parser().parse_args(["x", *MODEL]).reconnect_timeout == RECONNECT_TIMEOUT_S


def test_what_the_progress_line_says() -> None:
    source = {"live": True}
    state = {
        "timing_ms": {"total": {"last": 12.4}},
        "age_ms": {"last": 31.0},
        "sources": [source],
        "dropped": 3,
        "deadline_misses": 0,
        "reconnects": 1,
    }
    assert progress_note(state) == "12 ms/frame, age 31 ms, 3 dropped, 1 reconnected"
    source["live"] = False
    assert progress_note(state | {"dropped": 0, "reconnects": 0}) == "12 ms/frame"
    assert progress_note(state | {"timing_ms": {}, "age_ms": {}, "dropped": 0, "reconnects": 0}) == ""


def test_the_browser_view_shows_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imp_trt.segmenter import Segmenter

    run, pages = Segmenter.run, []

    def watched(self: Segmenter, frame: object, color: str | None = None) -> object:
        address = re.search(r"live view: (http://127\.0\.0\.1:\d+/)", said[0])
        assert address is not None
        with urlopen(address[1], timeout=5) as page:  # noqa: S310 - the address is our own
            pages.append(page.read())
        return run(self, frame, color)

    said: list[str] = []
    monkeypatch.setattr("imp_trt.cli.segment.say", said.append)
    monkeypatch.setattr(Segmenter, "run", watched)
    monkeypatch.setenv("DISPLAY", ":0")  # no window next to the browser
    assert main(["in/clip.mp4", *MODEL, "--serve", "0", "--max-frames", "1"]) == 0
    assert b"<html" in pages[0]
    assert made() == set()


def test_the_browser_view_is_reported_the_last_numbers_and_the_names_of_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from imp_trt.video.serve import BrowserView

    make, close, titles, seen = BrowserView.__init__, BrowserView.close, [], []

    def made_with(self: BrowserView, *args: Any, title: str, **options: Any) -> None:
        titles.append(title)
        make(self, *args, title=title, **options)

    def closed(self: BrowserView) -> None:
        assert self.statistics is not None
        seen.append(self.statistics())
        close(self)

    monkeypatch.setattr(BrowserView, "__init__", made_with)
    monkeypatch.setattr(BrowserView, "close", closed)
    assert main([str(tmp_path / "in" / "clip.mp4"), *MODEL, "--serve", "0", "-q"]) == 0
    assert titles == ["clip.mp4, tiny.fp32.onnx"]
    # A copy of a quarter of a second before would still have frames in flight.
    assert (seen[0]["delivered"], seen[0]["in_flight"]) == (5, 0)


@pytest.mark.slow
def test_a_stream_in_a_process_of_its_own_is_recorded_until_ctrl_c() -> None:
    pictures = [tiny.frame(64, 96, seed) for seed in range(5)]
    with RtspServer(pictures, fps=50, login=("user", "se/cret")) as server:
        url = f"rtsp://user:se%2Fcret@127.0.0.1:{server.port}/live"
        child = subprocess.Popen(
            [sys.executable, "-m", "imp_trt.cli.segment", url, "o.mp4", "--save-json", "r.jsonl", *MODEL],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (os.path.exists("r.jsonl") and os.path.getsize("r.jsonl")):
            assert child.poll() is None, child.communicate()
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert child.returncode == 0, err
    assert "cret" not in out + err
    lines = Path("r.jsonl").read_text().splitlines()
    assert out.startswith(f"frames     {len(lines)} in ")
    with open_file(Path("o.mp4")) as source:
        assert len(list(source)) == len(lines) > 0
    assert made() == {"o.mp4", "r.jsonl"}
