# SPDX-License-Identifier: Apache-2.0
"""imp-segment writes over nothing that it reads, and no output over another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.cli import data, demo, import_, inspect
from imp_trt.cli.segment import main
from tests.support import clips
from tests.support.label_layouts import LAYOUTS

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = ["-a", "model/tiny.fp32.onnx"]


def _contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


DESTROYERS = {
    "pattern among its frames": (["in/*.png", "in/%06d.png"], "the source"),
    "pattern among a folder's frames": (["in", "in/%d.jpg"], "the source"),
    "class maps among the frames": (["in/*.png", "null:", "--save-classes", "./in/%06d.png"], "the source"),
    "pattern that spells the one frame": (["in/000000.png", "in/%06d.png"], "the source"),
    "number in the folder's name": (["in0/f0.png", "in%d/f0.png"], "the source"),
    "JSON over the frame": (["in/f0.png", "--save-json", "in/f0.png"], "the source"),
    "class maps into the overlays' folder": (["in", "v", "--save-classes", "v/%06d.png"], "same path"),
    "overlays into the class maps' folder": (["in", "v/%06d.png", "--save-classes", "v"], "same path"),
    "two patterns of one folder": (["in", "v/%d.png", "--save-classes", "./v/%06d.png"], "same path"),
    "one image in the other's folder": (["in/f0.png", "v", "--save-classes", "v/f0.png"], "same path"),
    "JSON over an overlay": (["in/f0.png", "v", "--save-json", "v/f0.png"], "same path"),
    "a folder and a file of one name": (["in", "v", "--save-json", "./v"], "same path"),
    "a video and a folder of one name": (["in", "v.mp4", "--save-classes", "v.mp4"], "same path"),
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
        (["in/f0.png", "v/5%", "--save-classes", "v/5%/c"], ["5%"]),
    ],
)
def test_outputs_that_cannot_meet_may_share_a_folder(argv: list[str], wanted: list[str]) -> None:
    assert main([*argv, *MODEL]) == 0
    assert sorted(os.listdir("v")) == wanted


def test_an_overlay_may_be_next_to_its_source() -> None:
    assert main(["in/f0.png", "in/f0_overlay.png", *MODEL]) == 0
    assert main(["in/clip.mp4", "in/%06d.jpg", "--max-frames", "1", *MODEL]) == 0
    assert {"f0.png", "f0_overlay.png", "clip.mp4", "000000.jpg"} < set(os.listdir("in"))


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["in/clip.mp4", "in/a.mp4", "--add-source", "in/a_clip.mp4"], "overwrite the source"),
        (["in/clip.mp4", "o", "--add-source", "in/a_clip.mp4", "--save-overlay", "o/%06d.png"], "same path"),
        (["in/f0.png", "null:", "--save-panoptic", "p", "--save-json", "p/panoptic.json"], "same path"),
        (["in/f0.png", "null:", "--save-panoptic", "in"], "overwrite the source"),
        (["in/clip.mp4", "null:", "--serve-host", "localhost"], "--serve PORT"),
    ],
)
def test_what_the_new_outputs_must_not_do(
    argv: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    clips.write_clip(Path("in/a_clip.mp4"), frames=2)
    before = _contents()
    assert main([*argv, *MODEL]) == 2
    assert text in capsys.readouterr().err
    assert _contents() == before


def test_no_command_replaces_its_own_input(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/demo.mp4").write_bytes(Path("in/clip.mp4").read_bytes())
    Path("weights.safetensors").write_bytes(b"of another library")
    Path("link").symlink_to("out")
    before = _contents()
    assert demo.main(["out/demo.mp4", "-o", "link"]) == 2
    assert import_.main(["weights.safetensors", "-o", "link/../weights.safetensors"]) == 2
    assert capsys.readouterr().err.count("which is an input") == 2
    assert _contents() == before


def test_a_line_break_in_a_name_begins_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of that name could say that a check has passed."""
    name = "x\nPASSED imp-y"
    LAYOUTS["yolo"](Path(name))
    Path(name, "m.onnx").write_bytes(Path("model/tiny.fp32.onnx").read_bytes())
    manifest_path(f"{name}/m.onnx").write_bytes(manifest_path("model/tiny.fp32.onnx").read_bytes())
    assert data.main([name, "-q"]) == 0
    assert main(["in/f0.png", f"{name}/o", "-a", f"{name}/m.onnx"]) == 0
    assert inspect.main([f"{name}/m.onnx"]) in (0, 4)
    out = capsys.readouterr().out
    assert out.count("x PASSED imp-y") >= 3
    assert not [line for line in out.splitlines() if line.startswith("PASSED")]
