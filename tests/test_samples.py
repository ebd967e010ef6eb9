"""Every sample runs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import cv2
import pytest

from tests.support import tiny

SAMPLES = Path(__file__).resolve().parents[1] / "samples"


def test_segment_image(tmp_path, monkeypatch, capsys):
    artifact = tiny.artifact(tmp_path)
    picture = tmp_path / "photo.png"
    cv2.imwrite(str(picture), tiny.frame())
    monkeypatch.setattr(sys, "argv", ["segment_image.py", str(artifact), str(picture)])
    runpy.run_path(str(SAMPLES / "segment_image.py"), run_name="__main__")
    for suffix in (".overlay.png", ".classes.png", ".json"):
        assert (tmp_path / f"photo{suffix}").stat().st_size > 0
    assert capsys.readouterr().out


def test_operator_in_a_foreign_network():
    reached = runpy.run_path(str(SAMPLES / "operator_in_your_network.py"))["main"]()
    assert reached > 0


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_samples_stay_short_enough_to_copy(path):
    assert len(path.read_text().splitlines()) < 150
