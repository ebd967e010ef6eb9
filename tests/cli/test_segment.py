# SPDX-License-Identifier: Apache-2.0
"""imp-segment on every kind of source and sink, and on every mistake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread
from typing import Any

import cv2
import numpy as np
import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.cli.segment import main
from imp_trt.data.images import encode_image
from imp_trt.results.result import SegmentationResult
from imp_trt.video.sinks import NullSink, SegmentedFrame
from imp_trt.video.sources import VideoSource, open_source
from imp_trt.video.sources.decoder import opencv_capture
from tests.support import clips, tiny

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = ["-a", "model/tiny.fp32.onnx"]
BEFORE = {"in", "model"}


def made() -> set[str]:
    return set(os.listdir()) - BEFORE


def test_video_to_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in/clip.mp4", "out.mp4", *MODEL, "--headless"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("frames     5 in ")
    assert "network 96x64 fp32" in out
    assert "overlay    out.mp4" in out
    assert "instances  car 5, person 5" in out
    assert err == "" or ("written by OpenCV" in err and len(err.splitlines()) == 1)  # without PyAV
    with open_source("out.mp4") as source:
        assert len(list(source)) == 5
        assert source.fps == pytest.approx(29.97, abs=0.01)
    assert made() == {"out.mp4"}


@pytest.mark.parametrize(("score", "warned"), [("0.2", True), ("0.3", False), ("0", False)])
def test_a_score_below_that_of_the_network_is_named(
    score: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.artifact(Path("model"), score_threshold=0.3)
    assert main(["in/f0.png", "o.png", *MODEL, "--headless", "-q", "--min-score", score]) == 0
    assert ("--min-score has no effect: the network itself leaves out" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    ("argv", "unused"),
    [
        (["in/f0.png", "o.png", "--reconnect-timeout", "9s", "--no-paced"], "timeout, --paced have"),
        (["in/clip.mp4", "null:", "--read-timeout", "9s"], "--read-timeout has"),
        (["in/clip.mp4", "null:", "--strict"], "--strict has"),
        (["in/f0.png", "o.png", "--fps", "5"], "--fps has"),
        (["in/clip.mp4", "o.mp4", "--fps", "5", "--reconnect-timeout", "300s"], ""),
        (["in/*.png", "null:", "--strict"], ""),
        (["in/f0.png", "null:", "--legend", "--no-labels"], "--no-labels, --legend have"),
        (
            ["in/f0.png", "--save-classes", "c.png", "--style", "panoptic", "--alpha", "1"],
            "--style, --alpha have",
        ),
        (["in/f0.png", "o.png", "--style", "classes", "--no-labels"], "--no-labels has"),
        (["in/f0.png", "o.png", "--style", "classes", "--legend", "--alpha", "1"], ""),
        (["in/f0.png", "null:", "--save-overlay", "o.png", "--legend"], ""),
    ],
)
def test_options_without_effect_are_named(
    argv: list[str], unused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, *MODEL, "--headless", "-q", "--max-frames", "1"]) == 0
    err = capsys.readouterr().err
    assert unused in err
    assert ("no effect" in err) == bool(unused)


def test_image_with_every_output(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["in/f1.png", "o.png", "--save-classes", "c.png", "--save-json", "r.jsonl", "--save-overlay", "v"]
    assert main([*argv, *MODEL, "--json", "--legend", "--alpha", "0.4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 1
    assert report["results"] == [json.loads(Path("r.jsonl").read_text())]
    assert report["results_omitted"] == 0
    assert report["outputs"] == {"overlay": "o.png", "overlay 2": "v", "classes": "c.png", "json": "r.jsonl"}
    assert np.array_equal(cv2.imread("c.png", cv2.IMREAD_UNCHANGED), tiny.truth(tiny.frame(seed=1)))
    assert json.loads(Path("r.jsonl").read_text())["name"] == "f1"
    assert np.array_equal(cv2.imread("o.png"), cv2.imread("v/f1.png"))
    assert made() == {"o.png", "c.png", "r.jsonl", "v"}


def test_folder_pattern_and_frame_limit() -> None:
    os.remove("in/clip.mp4")
    assert main(["in", "all", *MODEL]) == 0
    assert sorted(os.listdir("all")) == ["f0.png", "f1.png", "f2.png"]
    assert main(["in/f[01].png", "some/%02d.jpg", *MODEL]) == 0
    assert sorted(os.listdir("some")) == ["00.jpg", "01.jpg"]
    assert main(["in", "--save-json", "two.jsonl", "--max-frames", "2", *MODEL]) == 0
    assert len(Path("two.jsonl").read_text().splitlines()) == 2
    assert main(["in", "slow.mp4", "--fps", "4", *MODEL]) == 0
    assert open_source("slow.mp4").fps == pytest.approx(4)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("in/clip.mp4", "clip_segmented.mp4"),
        ("in/f0.png", "f0_segmented.png"),
        ("in/*.png", "segmented"),
        ("in", "in_segmented"),
    ],
)
def test_without_a_sink_the_overlay_lands_in_the_current_folder(source: str, name: str) -> None:
    if source == "in":
        os.remove("in/clip.mp4")
    assert main([source, *MODEL]) == 0
    assert made() == {name}


def test_a_recording_without_a_sink_becomes_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the home folder, and at an address, where the source has no path."""
    monkeypatch.setenv("HOME", os.path.abspath("in"))
    assert main(["~/clip.mp4", *MODEL]) == 0
    assert made() == {"clip_segmented.mp4"}
    os.remove("clip_segmented.mp4")
    capture = opencv_capture(Path("in/clip.mp4"))
    monkeypatch.setattr(
        "imp_trt.video.sources.open_source", lambda spec, **_: VideoSource(spec, capture), raising=False
    )
    assert main(["http://host/drive.mp4", *MODEL]) == 0
    assert made() == {"drive_segmented.mp4"}


def test_null_sink_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in/clip.mp4", "null:", *MODEL, "--json"]) == 0
    assert made() == set()
    report = json.loads(capsys.readouterr().out)
    assert report["outputs"] == {}
    assert report["timing_ms"]["infer"]["p50"] > 0


def _break_video() -> None:
    data = Path("in/clip.mp4").read_bytes()
    Path("in/clip.mp4").write_bytes(data[: len(data) // 2])


def _flip_model() -> None:
    data = bytearray(Path("model/tiny.fp32.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    Path("model/tiny.fp32.onnx").write_bytes(data)


def _newer_manifest() -> None:
    where = manifest_path("model/tiny.fp32.onnx")
    where.write_text(json.dumps(json.loads(where.read_text()) | {"schema_version": 2}))


def _mixed_sizes() -> None:
    Path("in/f2.png").write_bytes(encode_image(tiny.frame(20, 30), ".png"))


MISTAKES = {
    "no such source": (["absent.mp4", "o.mp4"], None, 2, "nothing at this path"),
    "unknown suffix": (["model/tiny.fp32.onnx", "o.mp4"], None, 2, "ends with"),
    "video truncated": (["in/clip.mp4", "o.mp4"], _break_video, 2, "truncated"),
    "unknown sink": (["in/clip.mp4", "o.gif"], None, 2, "sink o.gif"),
    "unwritable sink": (["in/clip.mp4", "in/f0.png/o.mp4"], None, 2, "cannot be written"),
    "sink is the source": (["in/clip.mp4", "in/../in/clip.mp4"], None, 2, "overwrite the source"),
    "sink is the source's folder": (["in/*.png", "in"], None, 2, "overwrite the source"),
    "one image for many frames": (["in/clip.mp4", "o.png", "--save-json", "r"], None, 2, "one image"),
    "same path twice": (["in/clip.mp4", "o.mp4", "--save-overlay", "./o.mp4"], None, 2, "same path"),
    "sizes differ in a video": (["in/*.png", "o.mp4"], _mixed_sizes, 2, "size"),
    "stdout as -": (["in/clip.mp4", "--save-json", "-"], None, 2, "/dev/stdout"),
    "overlay on stdout": (["in/clip.mp4", "-"], None, 2, "/dev/stdout"),
    "no such artifact": (["in/clip.mp4", "o.mp4", "-a", "absent.onnx"], None, 4, "nothing at this path"),
    "not a model": (["in/clip.mp4", "o.mp4", "-a", "in/f0.png"], None, 2, "ends with"),
    "damaged model": (["in/clip.mp4", "o.mp4"], _flip_model, 4, "does not match its manifest"),
    "newer manifest": (["in/clip.mp4", "o.mp4"], _newer_manifest, 4, "schema_version"),
    "wrong backend": (["in/clip.mp4", "o.mp4", "--backend", "pytorch"], None, 2, "pytorch"),
    "wrong device": (["in/clip.mp4", "o.mp4", "--device", "tpu"], None, 2, "device"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_cost_one_line_and_leave_finished_frames_only(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, damage, code, text = MISTAKES[name]
    if damage is not None:
        damage()
    assert main([*argv, *([] if "-a" in argv else MODEL), "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in err
    finished = {"one image for many frames": {"o.png", "r"}, "sizes differ in a video": {"o.mp4"}}
    assert made() == finished.get(name, set())  # the frames before the mistake
    assert not any(file.startswith(".") for file in os.listdir())


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["in/clip.mp4"],
        ["x", *MODEL, "--max-frames", "0"],
        ["x", *MODEL, "--threads", "many"],
        ["x", *MODEL, "--alpha", "2"],
        ["x", *MODEL, "--fps", "nan"],
        ["x", *MODEL, "--fps", "0"],
        ["x", *MODEL, "--backend", "tensorflow"],
        ["x", *MODEL, "--headles"],
        ["x", *MODEL, "--policy", "drop"],
        ["x", *MODEL, "--queue-size", "0"],
        ["x", *MODEL, "--serve", "70000"],
    ],
)
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


@pytest.fixture
def slow_network(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The third frame and those after it take a tenth of a second; returns the calls."""
    from imp_trt.segmenter import Segmenter

    run, calls = Segmenter.run, []

    def slow(self: Segmenter, frame: object, color: str | None = None) -> object:
        calls.append(1)
        if len(calls) >= 3:
            time.sleep(0.1)
        return run(self, frame, color)

    monkeypatch.setattr(Segmenter, "run", slow)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_done(
    number: signal.Signals, slow_network: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    clips.write_clip(Path("in/long.mp4"), frames=28)

    def interrupt() -> None:
        while len(slow_network) < 5:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = Thread(target=interrupt)
    thread.start()
    try:
        code = main(["in/long.mp4", "o.mp4", "--save-json", "r.jsonl", "--save-panoptic", "p", *MODEL])
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert code == 130
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert 3 <= len(lines) < 28
    assert out.startswith(f"frames     {len(lines)} in ")
    assert err.endswith(f"interrupted after {len(lines)} frames, which are kept\n")
    with open_source("o.mp4") as source:
        assert len(list(source)) == len(lines)
    assert len(json.loads(Path("p/panoptic.json").read_text())["annotations"]) == len(lines)
    assert made() == {"o.mp4", "r.jsonl", "p"}


def test_an_interrupt_before_the_first_frame_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imp_trt.segmenter import Segmenter

    def interrupted(self: object, *args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "run", interrupted)
    assert main(["in/clip.mp4", "o.mp4", "--save-json", "r.jsonl", *MODEL]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert made() == set()


def test_images_that_cannot_be_read_are_skipped_listed_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.remove("in/clip.mp4")
    Path("in/f1.png").write_bytes(b"")
    Path("in/f9.jpg").write_bytes(b"\xff\xd8\xff half")
    argv = ["in", "all", "--save-json", "r.jsonl", *MODEL]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "skipped    2 of 4 images: f1.png, f9.jpg" in out
    assert "in/f1.png" in err
    assert sorted(os.listdir("all")) == ["f0.png", "f2.png"]
    assert main([*argv, "--json", "-q"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [image["path"] for image in report["skipped"]] == ["in/f1.png", "in/f9.jpg"]
    assert "empty" in report["skipped"][0]["reason"]
    assert report["frames"] == len(Path("r.jsonl").read_text().splitlines()) == 2


def test_strict_stops_at_an_image_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    os.remove("in/clip.mp4")
    Path("in/f2.png").write_bytes(b"")
    argv = ["in", "o.mp4", "--save-json", "r.jsonl", "--strict", *MODEL]
    assert main(argv) == 2
    assert "in/f2.png" in capsys.readouterr().err
    assert len(Path("r.jsonl").read_text().splitlines()) == 2
    with open_source("o.mp4") as source:
        assert len(list(source)) == 2


def test_images_none_of_which_can_be_read_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    os.remove("in/clip.mp4")
    for name in os.listdir("in"):
        Path("in", name).write_bytes(b"no image")
    assert main(["in", "o.mp4", "--save-json", "r.jsonl", *MODEL]) == 2
    assert "3 that cannot" in capsys.readouterr().err
    assert made() == set()


def test_names_with_a_time_in_them() -> None:
    os.rename("in/clip.mp4", "2024-11-29T12:30:00.mp4")
    assert main(["2024-11-29T12:30:00.mp4", *MODEL]) == 0
    assert main(["2024-11-29T12:30:00.mp4", "-50%d 12:00.mp4".replace("-", "./-"), *MODEL]) == 0
    assert {"2024-11-29T12:30:00_segmented.mp4", "-50%d 12:00.mp4"} < made()


def test_a_window_only_with_a_display_and_not_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []

    class Window(NullSink):
        def write(self, item: SegmentedFrame) -> bool:
            shown.append(item.frame.index)
            return True

    monkeypatch.setattr("imp_trt.video.sinks.window.Window", Window)
    main(["in/clip.mp4", "null:", *MODEL])
    assert shown == []
    monkeypatch.setenv("DISPLAY", ":0")
    main(["in/clip.mp4", "null:", *MODEL, "--headless"])
    assert shown == []
    assert main(["in/clip.mp4", *MODEL]) == 0
    assert shown == [0, 1, 2, 3, 4]
    assert made() == set()


@pytest.mark.slow
def test_as_a_process_libraries_stay_silent() -> None:
    _break_video()
    Path("in/noise.mp4").write_bytes(b"noise" * 1000)
    for source in ("in/clip.mp4", "in/noise.mp4"):
        child = subprocess.run(
            [sys.executable, "-m", "imp_trt.cli.segment", source, "o.mp4", *MODEL],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert child.returncode == 2
        assert child.stdout == ""
        assert len(child.stderr.splitlines()) == 1
        assert child.stderr.startswith(f"error: video {source}: expected")


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        "pipe",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("/dev/stdout", "/dev/fd/1", "both.txt")),
    ],
)
def test_the_report_gives_way_to_json_lines_on_stdout(place: str) -> None:
    """Whatever the name of stdout, it contains nothing but the lines."""
    command = [sys.executable, "-m", "imp_trt.cli.segment", "in/clip.mp4", "--save-json", place, *MODEL]
    if place == "pipe":
        os.mkfifo(place)
        target = os.open(place, os.O_RDWR)
    else:
        target = os.open("both.txt", os.O_RDWR | os.O_CREAT)
    try:
        rejected = _run([*command, "--json"], target)
        assert (rejected.returncode, "--json" in rejected.stderr) == (2, True)
        done = _run(command, target)
        assert done.returncode == 0, done.stderr
        assert "frames     5 in" in done.stderr
        lines = os.read(target, 1 << 16) if place == "pipe" else Path("both.txt").read_bytes()
        assert [json.loads(line)["index"] for line in lines.splitlines()] == list(range(5))
    finally:
        os.close(target)


def _run(command: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60)


@pytest.mark.parametrize(
    ("options", "drawn", "fused"), [([], 0.3, 0.5), (["--min-score", "0.75"], 0.75, 0.75)]
)
def test_the_minimum_score_reaches_every_output(
    options: list[str], drawn: float, fused: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, float] = {}
    fuse, to_dict, plot = (getattr(SegmentationResult, name) for name in ("panoptic", "to_dict", "plot"))

    def panoptic(result: SegmentationResult, min_score: float = 0.5) -> Any:
        used["panoptic"] = min_score
        return fuse(result, min_score)

    def lines(result: SegmentationResult, min_score: float = -1) -> Any:
        used["json"] = min_score
        return to_dict(result, min_score)

    def overlay(result: SegmentationResult, *arguments: Any, **named: Any) -> Any:
        used["overlay"] = named["min_score"]
        return plot(result, *arguments, **named)

    for name, function in (("panoptic", panoptic), ("to_dict", lines), ("plot", overlay)):
        monkeypatch.setattr(SegmentationResult, name, function)
    argv = ["in/f0.png", "o.png", "--save-panoptic", "p", "--save-json", "r.jsonl", "--style", "panoptic"]
    assert main([*argv, *options, *MODEL]) == 0
    assert used == {"panoptic": fused, "json": drawn, "overlay": drawn}
