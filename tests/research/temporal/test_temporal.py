# SPDX-License-Identifier: Apache-2.0
"""The measurement of videos: flicker of exact motion, and a page whose numbers come from the results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from imp_trt.data.dataset import Sample
from imp_trt.synthetic import SCENE_CLASSES
from research.temporal import measure as measuring
from research.temporal.measure import Configuration, Flicker, measure
from research.temporal.page import page
from research.temporal.videos import VIDEOS
from tests.support import tiny, tiny_parts
from tests.support.moving import picture, texture

CAR = tiny.CLASSES.things[0]


def drive(count: int, speed: int = 4) -> list[Sample]:
    frames = []
    for i in range(count):
        semantic = np.zeros((128, 192), np.uint8)
        semantic[40:88, 20 + speed * i : 68 + speed * i] = CAR
        image = picture([(20 + speed * i, 40, 48, CAR)], shift=speed * i)
        frames.append(Sample(image, semantic, (semantic > 0).astype(np.int32)))
    return frames


def test_maps_that_move_with_the_picture_do_not_flicker() -> None:
    flicker = Flicker(tiny.CLASSES)
    for sample in drive(5):
        nothing = np.zeros_like(sample.semantic)
        flicker.add(sample.image, {"truth": sample.semantic, "nothing": nothing})
    assert (flicker.share("truth") or 0) < 0.1
    assert flicker.share("nothing") is None


def test_maps_that_come_and_go_flicker() -> None:
    flicker = Flicker(tiny.CLASSES)
    for i, sample in enumerate(drive(5)):
        flicker.add(sample.image, {"own": sample.semantic * np.uint8(i % 2)})
    assert flicker.share("own") == pytest.approx(1, abs=0.02)


def test_a_cut_does_not_count() -> None:
    flicker = Flicker(tiny.CLASSES)
    map_ = np.full((64, 96), CAR, np.uint8)
    flicker.add(np.dstack([texture(1, (64, 96))] * 3), {"own": map_})
    flicker.add(np.dstack([texture(2, (64, 96))] * 3), {"own": map_ * 0}, cut=True)
    assert flicker.share("own") is None


def test_a_measurement_and_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_parts.artifact(tmp_path)
    configurations = (
        Configuration(0),
        Configuration(2),
        Configuration(2, "none"),
        Configuration(1, blend=0.5),
    )
    result = json.loads(json.dumps(measure(artifact, "squares", tiny.CLASSES, drive(6), 1, configurations)))
    rows = result["rows"]
    assert [row["detected"] for row in rows] == [6, 3, 3, 6]
    assert rows[1]["ms"]["carried"]["p50"] > 0
    assert all(0 <= row["mean_iou"] <= 1 for row in rows)
    text, images = page([result])
    assert set(images) == {"temporal/squares-thing_iou.svg", "temporal/squares-flicker.svg"}
    assert all(f"]({path})" in text for path in images)
    (table,) = text.split("## squares")[1:]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert len({line.count("|") for line in lines}) == 1
    assert f"{100 * rows[1]['thing_iou']:.1f}" in lines[3]
    assert "every 2nd (3 of 6)" in lines[3]
    assert measuring.CONFIGURATIONS[0] == Configuration(0)


def test_the_page_in_the_repository_is_that_of_its_results() -> None:
    root = Path(__file__).resolve().parents[3]
    results = [json.loads(p.read_text()) for p in sorted((root / "research/temporal/results").glob("*.json"))]
    assert {result["video"] for result in results} == {"camvid", *VIDEOS}
    text, images = page(results)
    assert (root / "docs/temporal.md").read_text() == text
    assert len(images) == 2 * len(results)
    for path, svg in images.items():
        assert svg.startswith("<svg"), path
        assert (root / "docs" / path).is_file(), path


def test_procedural_videos_are_labeled() -> None:
    sample = next(iter(VIDEOS["streets"]))
    assert sample.semantic.max() < len(SCENE_CLASSES)
