# SPDX-License-Identifier: Apache-2.0
"""Links that form a loop are rejected as any unreadable file is, in every place that takes a path."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = "model/tiny.fp32.onnx"
TAKES = {
    "segment: artifact": ["segment", "in/f0.png", "null:", "-a", "loop.onnx"],
    "segment: source": ["segment", "loop.png", "null:", "-a", MODEL],
    "segment: video": ["segment", "loop.mp4", "null:", "-a", MODEL],
    "segment: image in the loop": ["segment", "loop/f.png", "null:", "-a", MODEL],
    "segment: list": ["segment", "in/f0.png", "null:", "--save-json", "loop/r.jsonl", "-a", MODEL],
    "bench: artifact": ["bench", "loop.onnx"],
    "bench: source": ["bench", MODEL, "--source", "loop.png"],
    "bench: report": ["bench", MODEL, "--duration", "1ms", "-o", "loop/r.json"],
    "eval: model": ["eval", "loop.onnx", "--data", "scenes"],
    "eval: data": ["eval", MODEL, "--data", "loop"],
    "data: folder": ["data", "loop"],
    "data: description": ["data", "loop.json"],
    "train: weights": ["train", "--data", "scenes", "--init", "loop.pt", "-o", "o"],
    "train: folder": ["train", "--data", "scenes:64x64", "-o", "loop/run"],
    "import: checkpoint": ["import_", "loop.pt", "-o", "o.safetensors"],
    "export: checkpoint": ["export", "--weights", "loop.safetensors", "-o", "o"],
    "export: file": ["export", "loop.onnx", "-o", "o"],
    "inspect": ["inspect", "loop.onnx"],
    "selftest": ["selftest", "loop.onnx"],
    "demo: source": ["demo", "loop.mp4", "-o", "demo.mp4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("place", TAKES)
def test_a_loop_of_links_is_no_internal_error(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("", ".onnx", ".png", ".mp4", ".json", ".pt", ".safetensors"):
        Path(f"loop{suffix}").symlink_to(f"loop{suffix}")
    command, *argv = TAKES[place]
    code = importlib.import_module(f"imp_trt.cli.{command}").main(argv)
    error = capsys.readouterr().err.splitlines()[-1]
    assert code in (2, 4), error
    assert error.startswith("error: ")
    assert "loop" in error
