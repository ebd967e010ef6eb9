# SPDX-License-Identifier: Apache-2.0
"""Calibration frames, histograms, and the ranges of a network's layers."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
import torch

from imp_trt.artifacts.manifest import InputContract
from imp_trt.data import images
from imp_trt.errors import ExportError, InvalidInput, SourceError
from imp_trt.export.quantization import calibration
from imp_trt.export.quantization.calibration import CalibrationFrames, Histogram, collect_ranges
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.models.backbone import COMPACT_WIDTHS
from imp_trt.preprocessing.letterbox import LetterboxTransform


def test_an_empty_or_missing_folder_is_rejected(tmp_path):
    with pytest.raises(SourceError):
        CalibrationFrames(tmp_path)
    with pytest.raises(SourceError):
        CalibrationFrames(tmp_path / "missing")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InvalidInput, match="limit"):
        CalibrationFrames(tmp_path, 0)


def test_frames_are_fitted_as_in_use_and_spread_evenly(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 50, 70, 3)).astype(np.uint8)
    for i, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    frames = CalibrationFrames(tmp_path, 3)
    assert [p.stem for p in frames.paths()] == ["0", "2", "4"]
    contract = InputContract(height=64, width=96)
    loaded = list(frames.load(contract))
    assert len(loaded) == 3
    np.testing.assert_array_equal(loaded[1], LetterboxTransform.of((50, 70), contract).apply(images[2]))


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([(31, 47)] * 2 + [(64, 96)], "2 of 3 calibration frames"),
        ([(31, 47)] + [(64, 96)] * 2, None),
        ([(32, 48), (640, 960), (48, 64)], None),
        ([(128, 60)] * 3, "3 of 3 calibration frames in .* leave more than 50% to padding"),
        ([(20, 100)] * 3, "leave more than 50%"),
    ],
)
def test_images_of_other_sizes_are_reported(tmp_path, caplog, sizes, told):
    for index, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((*size, 3), index, np.uint8))
    assert len(list(CalibrationFrames(tmp_path).load(InputContract(height=64, width=96)))) == 3
    text = caplog.text
    assert ("in the network's frame of 96x64" in text) == (told is not None)
    assert told is None or re.search(told, text)


def test_what_a_folder_has_besides_its_images_is_named_once(tmp_path, caplog):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b.avif").write_bytes(b"x")
    frames = CalibrationFrames(tmp_path)
    assert len(frames.paths()) == 1
    (message,) = caplog.messages
    assert "b.avif" in message


@pytest.mark.parametrize("suffix", ["mask", "label", "labels", "gt", "seg", "labelIds"])
def test_label_maps_next_to_their_images_are_no_frames(suffix, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(images, "_warned", set())  # a folder of the same name was warned of
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.jpg"), np.zeros((8, 8, 3), np.uint8))
        cv2.imwrite(str(tmp_path / f"{name}_{suffix}.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(tmp_path / f"c_{suffix}.png"), np.zeros((8, 8), np.uint8))  # a gray photo of that name
    cv2.imwrite(str(tmp_path / f"a_{suffix}.jpg"), np.zeros((8, 8, 3), np.uint8))
    frames = CalibrationFrames(tmp_path)
    assert [path.name for path in frames.paths()] == ["a.jpg", f"a_{suffix}.jpg", "b.jpg", f"c_{suffix}.png"]
    assert len(caplog.records) == 1
    assert f"a_{suffix}.png is a label map of another image, as are 2 in all" in caplog.text
    assert VerificationFrames(tmp_path, 9).description.startswith("4 images")


def test_a_damaged_image_is_named(calibration_folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(SourceError, match=r"broken\.png"):
        list(CalibrationFrames(tmp_path).load(InputContract(height=64, width=96)))


def test_histograms_count_magnitudes():
    histogram = Histogram()
    assert histogram.max == histogram.clipping_threshold(127) == 0
    histogram.add(torch.zeros(4))
    assert histogram.max == 0
    histogram.add(torch.tensor([[-3.0, 1.0], [0.5, 2.0]]))
    assert histogram.counts.sum() == 8
    assert 3 <= histogram.max <= 3 * (1 + 2**-6)
    assert histogram.finite
    histogram.add(torch.tensor([float("nan")]))
    assert not histogram.finite


@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_the_threshold_is_the_best_that_can_be_found_by_trying(draw):
    values = draw(200_000, generator=torch.Generator().manual_seed(1))
    values[0] = 60.0  # an outlier that would cost the others most of their levels
    histogram = Histogram()
    histogram.add(values)

    def loss(threshold):
        step = threshold / 127
        return float(((values / step).round().clamp(-127, 127) * step - values).square().mean())

    best = min(loss(float(t)) for t in np.geomspace(0.5, 60, 400))
    found = histogram.clipping_threshold(127)
    assert loss(found) < 1.05 * best
    assert loss(found) < 0.8 * loss(60.0)


def test_every_call_of_every_layer_has_a_range(module, calibration_folder):
    steps = []
    ranges = collect_ranges(
        module, CalibrationFrames(calibration_folder), lambda done, total: steps.append((done, total))
    )
    layers = {n for n, m in module.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    shortcuts = {f"network.backbone.body.stages.{stage}.0.downsample" for stage in (1, 2, 3)}
    assert {layer for layer, _ in ranges} == layers | shortcuts
    assert sorted(call for layer, call in ranges if layer == "detector.rpn_head.conv.0.0") == [0, 1, 2, 3, 4]
    assert all(call == 0 for layer, call in ranges if not layer.startswith("detector.rpn_head"))
    assert steps == [(0, 2), (1, 2), (2, 2)]
    first = ranges["network.backbone.body.stem.0.0", 0]
    assert first.counts.sum() == 2 * 3 * 64 * 96
    outputs = ranges["network.backbone.body.stages.1.0.downsample", 0]
    assert outputs.counts.sum() == 2 * COMPACT_WIDTHS[1] * 8 * 12
    hooks = [m._forward_pre_hooks or m._forward_hooks for m in module.modules()]
    assert not any(hooks), "the module is left as it was"


def test_an_input_that_is_not_finite_is_named(module, calibration_folder):
    layer = module.network.semantic.fuse[1][0]
    kept = layer.bias[0].clone()
    try:
        with torch.no_grad():
            layer.bias[0] = float("inf")
        with pytest.raises(ExportError, match=r"network\.semantic\.fuse\.2\.0.*infinity"):
            collect_ranges(module, CalibrationFrames(calibration_folder))
    finally:
        with torch.no_grad():
            layer.bias[0] = kept


@pytest.mark.parametrize(
    ("copies", "different", "text"), [(3, 1, "1 different ones among 3"), (3, 3, "3 cal")]
)
def test_few_or_duplicate_frames_are_reported(module, tmp_path, caplog, copies, different, text):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 96, 3), dtype=np.uint8) for _ in range(different)]
    for index in range(copies):
        cv2.imwrite(str(tmp_path / f"{index}.png"), images[index % different])
    collect_ranges(module, CalibrationFrames(tmp_path))
    (record,) = caplog.records
    assert f"only {text}" in record.getMessage()
    assert "32 or more different images" in record.getMessage()


def test_enough_different_frames_are_not_commented(module, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(calibration, "ENOUGH_FRAMES", 2)
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 96, 3), 90 + index, np.uint8))
    collect_ranges(module, CalibrationFrames(tmp_path))
    assert not caplog.records
