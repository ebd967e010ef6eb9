# SPDX-License-Identifier: Apache-2.0
"""imp-segment with a detector that runs on some frames."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from imp_trt.cli.segment import main
from tests.support import tiny_parts

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    return ["-a", str(tiny_parts.artifact(tmp_path))]


def test_every_third_frame(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["in/clip.mp4", "out.mp4", *model, "--headless", "--detect-every", "3", "--save-json", "r.jsonl"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "canvas     2 with detector, p50 " in out
    assert "; 3 without detector, p50 " in out
    assert "at most 2 frames old" in out
    assert "detected" not in out
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [line["canvas_age"] for line in lines] == [0, 1, 2, 0, 1]
    assert [line["instances"][0]["age"] for line in lines] == [0, 1, 2, 0, 1]
    assert [line["instances"][0]["track_id"] for line in lines] == [0] * 5


def test_tracks_last_as_long_as_objects_are_carried(model: list[str]) -> None:
    pytest.importorskip("trackers", reason="needs the package trackers: pip install 'imp-trt[track]'")
    argv = ["in/clip.mp4", "null:", *model, "--headless", "--detect-every", "3", "--save-json", "r.jsonl"]
    assert main([*argv, "--track"]) == 0
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    ids = [[instance["track_id"] for instance in line["instances"]] for line in lines]
    assert ids == [[None, None], *[[0, 1]] * 4]


def test_the_report_as_json(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["in/clip.mp4", "null:", *model, "--headless", "--json", "--detect-every", "2", "--carry", "none"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["carried"], report["canvas_age"]) == (2, 1)
    assert {"detected", "carried", "carry"} <= set(report["timing_ms"])


def test_a_budget_and_a_blend(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "in/clip.mp4",
        "null:",
        *model,
        "--headless",
        "--json",
        "--detect-budget",
        "20s",
        "--blend",
        "0.3",
    ]
    assert main(argv) == 0
    assert json.loads(capsys.readouterr().out)["canvas_age"] == 0


def test_an_artifact_without_its_part(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(os.listdir())
    assert main(["in/clip.mp4", "out.mp4", "-a", "model/tiny.fp32.onnx", "--detect-every", "4"]) != 0
    assert "imp-export --parts" in capsys.readouterr().err
    assert set(os.listdir()) == before


@pytest.mark.parametrize(
    "wrong", [["--detect-every", "0"], ["--blend", "1"], ["--detect-budget", "-3ms"], ["--carry", "kalman"]]
)
def test_options_out_of_their_range(model: list[str], wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["in/clip.mp4", "null:", *model, *wrong])


def test_carry_alone_says_what_is_missing(model: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["in/clip.mp4", "null:", *model, "--carry", "none"]) == 2
    assert "--detect-every" in capsys.readouterr().err
