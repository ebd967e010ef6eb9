"""imp-segment on every kind of source and sink, and on every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from imp_trt.artifact import manifest_path
from imp_trt.cli.segment import main
from imp_trt.images import encode_image
from imp_trt.video.sources import open_source
from tests.support import clips, tiny


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "model").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"f{i}.png").write_bytes(encode_image(tiny.frame(seed=i), ".png"))
    clips.write_clip(tmp_path / "in" / "clip.mp4", frames=5, fps=30000 / 1001)
    tiny.artifact(tmp_path / "model")


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
    assert err == ""
    with open_source("out.mp4") as source:
        assert len(list(source)) == 5
        assert source.fps == pytest.approx(29.97, abs=0.01)
    assert made() == {"out.mp4"}


def test_image_with_every_output(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["in/f1.png", "o.png", "--save-classes", "c.png", "--save-json", "r.jsonl", "--save-overlay", "v"]
    assert main([*argv, *MODEL, "--json", "--legend", "--alpha", "0.4"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 1
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
    "video cut short": (["in/clip.mp4", "o.mp4"], _break_video, 2, "cut short"),
    "unknown sink": (["in/clip.mp4", "o.gif"], None, 2, "sink o.gif"),
    "unwritable sink": (["in/clip.mp4", "in/f0.png/o.mp4"], None, 2, "cannot be written"),
    "sink is the source": (["in/clip.mp4", "in/../in/clip.mp4"], None, 2, "replace the source"),
    "sink is the source's folder": (["in/*.png", "in"], None, 2, "replace the source"),
    "one image for many frames": (["in/clip.mp4", "o.png", "--save-json", "r"], None, 2, "one picture"),
    "one place twice": (["in/clip.mp4", "o.mp4", "--save-overlay", "./o.mp4"], None, 2, "one place"),
    "sizes differ in a video": (["in/*.png", "o.mp4"], _mixed_sizes, 2, "size"),
    "no such artifact": (["in/clip.mp4", "o.mp4", "-a", "absent.onnx"], None, 4, "nothing at this path"),
    "not a model": (["in/clip.mp4", "o.mp4", "-a", "in/f0.png"], None, 2, "ends with"),
    "damaged model": (["in/clip.mp4", "o.mp4"], _flip_model, 4, "does not match its manifest"),
    "newer manifest": (["in/clip.mp4", "o.mp4"], _newer_manifest, 4, "schema_version"),
    "wrong backend": (["in/clip.mp4", "o.mp4", "--backend", "pytorch"], None, 2, "pytorch"),
    "wrong device": (["in/clip.mp4", "o.mp4", "--device", "cuda"], None, 2, "device"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_cost_one_line_and_leave_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv, damage, code, text = MISTAKES[name]
    if damage is not None:
        damage()
    assert main([*argv, *([] if "-a" in argv else MODEL), "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert text in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in err
    assert made() <= {"o.png"}  # the first picture of several is whole
    assert not any(file.startswith(".") for file in os.listdir())


def _contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


DESTROYERS = {
    "pattern among its frames": (["in/*.png", "in/%06d.png"], "the source"),
    "pattern among a folder's frames": (["in", "in/%d.jpg"], "the source"),
    "class maps among the frames": (["in/*.png", "null:", "--save-classes", "./in/%06d.png"], "the source"),
    "pattern that spells the one frame": (["in/000000.png", "in/%06d.png"], "the source"),
    "number in the folder's name": (["in0/f0.png", "in%d/f0.png"], "the source"),
    "JSON over the frame": (["in/f0.png", "--save-json", "in/f0.png"], "the source"),
    "class maps into the overlays' folder": (["in", "v", "--save-classes", "v/%06d.png"], "one place"),
    "overlays into the class maps' folder": (["in", "v/%06d.png", "--save-classes", "v"], "one place"),
    "two patterns of one folder": (["in", "v/%d.png", "--save-classes", "./v/%06d.png"], "one place"),
    "one picture in the other's folder": (["in/f0.png", "v", "--save-classes", "v/f0.png"], "one place"),
    "JSON over an overlay": (["in/f0.png", "v", "--save-json", "v/f0.png"], "one place"),
    "a folder and a file of one name": (["in", "v", "--save-json", "./v"], "one place"),
    "a video and a folder of one name": (["in", "v.mp4", "--save-classes", "v.mp4"], "one place"),
    "JSON over the model": (["in", "--save-json", "model/tiny.fp32.onnx"], "the model"),
    "JSON over the manifest": (["in", "--save-json", "in/../model/tiny.fp32.onnx.json"], "the model"),
    "pattern that spells the model": (
        ["in", "--save-classes", "model/%d.onnx", "-a", "model/0.onnx"],
        "model",
    ),
}


@pytest.mark.parametrize("name", DESTROYERS)
def test_no_output_replaces_an_input_another_output_or_the_model(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, what = DESTROYERS[name]
    os.remove("in/clip.mp4")
    if any(word.startswith(("in0", "in/000000")) for word in argv):
        Path("in0").mkdir()
        for copy in ("in0/f0.png", "in/000000.png"):
            Path(copy).write_bytes(Path("in/f0.png").read_bytes())
    Path("model/0.onnx").write_bytes(Path("model/tiny.fp32.onnx").read_bytes())
    manifest_path("model/0.onnx").write_bytes(manifest_path("model/tiny.fp32.onnx").read_bytes())
    before = _contents()
    assert main([*argv, *([] if "-a" in argv else MODEL)]) == 2
    assert what in capsys.readouterr().err
    assert _contents() == before


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["in/f0.png", "v", "--save-json", "v/r.jsonl"], ["f0.png", "r.jsonl"]),
        (["in/f0.png", "v/o%d.png", "--save-classes", "v/c%d.png"], ["c0.png", "o0.png"]),
        (["in/f0.png", "v/%d_o.png", "--save-classes", "v/%d_c.png"], ["0_c.png", "0_o.png"]),
        (["in/f0.png", "v/o.png", "--save-classes", "v/c.png"], ["c.png", "o.png"]),
        (["in/clip.mp4", "v", "--save-overlay", "v/o.mp4", "--max-frames", "1"], ["000000.png", "o.mp4"]),
        (["in/f0.png", "v/%d.png", "--save-classes", "v/c"], ["0.png", "c"]),
    ],
)
def test_outputs_that_cannot_meet_may_share_a_folder(argv: list[str], wanted: list[str]) -> None:
    assert main([*argv, *MODEL]) == 0
    assert sorted(os.listdir("v")) == wanted


def test_an_overlay_may_lie_beside_its_source() -> None:
    assert main(["in/f0.png", "in/f0_overlay.png", *MODEL]) == 0
    assert main(["in/clip.mp4", "in/%06d.jpg", "--max-frames", "1", *MODEL]) == 0
    assert {"f0.png", "f0_overlay.png", "clip.mp4", "000000.jpg"} < set(os.listdir("in"))


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
    ],
)
def test_usage_errors(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_an_interrupt_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from imp_trt.segmenter import Segmenter

    run, calls = Segmenter.run, []

    def interrupted(self: Segmenter, frame: object, color: str | None = None) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, frame, color)

    monkeypatch.setattr(Segmenter, "run", interrupted)
    assert main(["in/clip.mp4", "o.mp4", "--save-json", "r.jsonl", *MODEL]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert made() == set()


def test_a_window_only_with_a_display_and_not_headless(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append(title))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda title, prop: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    main(["in/clip.mp4", "null:", *MODEL])
    assert shown == []
    monkeypatch.setenv("DISPLAY", ":0")
    main(["in/clip.mp4", "null:", *MODEL, "--headless"])
    assert shown == []
    assert main(["in/clip.mp4", *MODEL]) == 0
    assert len(shown) == 5
    assert made() == set()


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
