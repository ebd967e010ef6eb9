# SPDX-License-Identifier: Apache-2.0
"""Switches for networks of other code bases: checked, stored, and the same in both forms of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from imp_trt.errors import InvalidInput
from imp_trt.models.config import DetectorConfig, ModelConfig
from imp_trt.models.deploy import DeployModule
from imp_trt.models.deploy_detector import _anchors
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import detecting_network, small_config, smooth_frames


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("anchors", ["Exact", "", None, 1]),
        ("anchor_offset", [-0.1, 1.1, math.nan, "0", None, True]),
        (
            "box_weights",
            [(1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0), 10.0, (1.0, 1.0, 1.0, math.inf), [1, 1, 1, 1]],
        ),
        ("score_threshold", [0.0, 1.0, 50, "0.5", math.nan]),  # no score is above 1
        ("roi_aligned", [1, "yes", None]),
        ("roi_samples", [-1, 17, 1.5, True, None]),
        ("inclusive_boxes", [1, "yes", None]),
    ],
)
def test_fields_of_the_detector(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(InvalidInput, match=field):
            DetectorConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "values"), [("stride_in_1x1", [1, None, True]), ("fuse_convs", [-1, 65, 1.5, None])]
)
def test_fields_of_the_network(field: str, values: list[object]) -> None:
    for value in values:  # the compact network has no 1x1 convolution to give a stride to
        with pytest.raises(InvalidInput, match=field):
            small_config(**{field: value})


def switched() -> ModelConfig:
    config = small_config("panoptic-fpn-imp", fuse_convs=0, canvas_scale=2.0)
    detector = replace(
        config.detector_config,
        anchors="exact",
        anchor_offset=0.5,
        box_weights=(8.0, 9.0, 4.0, 3.0),
        roi_aligned=True,
        roi_samples=3,
    )
    return replace(config, detector_config=detector)


def test_configurations_are_stored_and_older_ones_read() -> None:
    config = switched()
    for one in (config, adaptive()):
        assert ModelConfig.from_dict(one.to_dict()) == one
    data = small_config().to_dict()
    for name in ("stride_in_1x1", "fuse_convs"):
        del data[name]
    for name in ("anchors", "anchor_offset", "box_weights", "roi_aligned", "roi_samples", "inclusive_boxes"):
        del data["detector_config"][name]  # type: ignore[attr-defined]
    assert ModelConfig.from_dict(data) == small_config()


def legacy() -> ModelConfig:
    config = switched()
    detector = replace(
        config.detector_config,
        anchors="legacy",
        inclusive_boxes=True,
        roi_aligned=False,
        roi_samples=2,
        canonical_size=223,
    )
    return replace(config, detector_config=detector)


def adaptive() -> ModelConfig:
    config = switched()
    return replace(config, detector_config=replace(config.detector_config, roi_samples=0))


def adaptive_and_not_aligned() -> ModelConfig:
    config = small_config("panoptic-fpn-imp")
    return replace(config, detector_config=replace(config.detector_config, roi_samples=0))


@pytest.mark.parametrize(
    "make", [switched, legacy, adaptive, pytest.param(adaptive_and_not_aligned, marks=pytest.mark.slow)]
)
def test_both_forms_agree(make: Callable[[], ModelConfig]) -> None:
    network = detecting_network(make())
    frames = smooth_frames()
    found = network.forward_frames(frames)
    with torch.no_grad():
        outputs = dict(zip(OUTPUT_NAMES, DeployModule(network)(frames), strict=True))
    assert found["num_detections"].sum() > 4
    assert torch.equal(outputs["num_detections"], found["num_detections"])
    assert torch.equal(outputs["labels"], found["labels"])
    for name, tolerance in (("scores", 1e-4), ("boxes", 0.02), ("masks", 1e-3)):
        torch.testing.assert_close(outputs[name], found[name], atol=tolerance, rtol=0)
    assert (outputs["semantic"] == found["semantic"]).float().mean() > 0.999


def test_exact_anchors_with_an_offset() -> None:
    detector = detecting_network(switched()).detector
    assert detector is not None
    levels = _anchors(detector, (64, 96))
    ratios, sides = detector.config.aspect_ratios, detector.config.anchor_sizes
    for index, (level, side) in enumerate(zip(levels, sides, strict=True)):
        stride = 4 << index
        for a, ratio in enumerate(ratios):
            width, height = side / math.sqrt(ratio), side * math.sqrt(ratio)
            x = y = 0.5 * stride
            corners = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
            torch.testing.assert_close(level[a], corners, atol=1e-4, rtol=0)
            if len(level) > len(ratios):
                right = corners + torch.tensor([stride, 0, stride, 0])
                torch.testing.assert_close(level[len(ratios) + a], right, atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", [switched, legacy, pytest.param(adaptive, marks=pytest.mark.slow)])
def test_training_with_the_switches_has_gradients(make: Callable[[], ModelConfig]) -> None:
    network = detecting_network(make()).train()
    assert network.detector is not None
    features = network.backbone(network.preprocess(smooth_frames(1)))
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[:, 10:40, 20:70] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 70, 40]]), "labels": torch.tensor([1]), "masks": masks}
    losses, _ = network.detector.losses(features, (64, 96), [target])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradient = network.backbone.fpn.layer_blocks[0][0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
