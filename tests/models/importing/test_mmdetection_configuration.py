# SPDX-License-Identifier: Apache-2.0
"""What an mmdetection configuration says of anchors, codes of boxes, thresholds and pooling."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from imp_trt.errors import CheckpointError
from imp_trt.models.box_conventions import ShiftedAnchors
from imp_trt.models.config import DetectorConfig
from imp_trt.models.importing.settings import detector_settings, parse_settings
from tests.models.importing.test_detectron2_mmdet import MMDET, fields


def mmdet_text(anchors: str = "", rpn: str = "", roi: str = "", test: str = "") -> str:
    """A configuration as mmdetection writes it, with more of some parts."""
    return f"""auto_scale_lr = dict(base_batch_size=16, enable=False)
model = dict(
    backbone=dict(type='ResNet', depth=50, style='pytorch'),
    rpn_head=dict(
        anchor_generator=dict(
            {anchors or "scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]"},
            type='AnchorGenerator'),
        bbox_coder=dict(
            {rpn or "target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]"},
            type='DeltaXYWHBBoxCoder')),
    roi_head=dict(
        bbox_head=dict(bbox_coder=dict(
            {roi or "target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]"},
            type='DeltaXYWHBBoxCoder')),
        mask_roi_extractor=dict(roi_layer=dict(output_size=14, sampling_ratio=0, type='RoIAlign'))),
    test_cfg=dict(rcnn=dict(
        {test or "max_per_img=100, nms=dict(iou_threshold=0.5, type='nms'), score_thr=0.05"},
        mask_thr_binary=0.5)),
    type='MaskRCNN')
work_dir = './work_dirs/x'
"""


def test_the_default_configuration_of_mmdetection_changes_nothing() -> None:
    assert fields(MMDET, mmdet_text())[1] == fields(MMDET, "model = dict()")[1]


@pytest.mark.parametrize(
    ("scales", "ratios"), [((4,), (0.5, 1.0, 2.0)), ((2, 4, 8), (1.0,)), ((3,), (1, 2, 5))]
)
def test_anchors_of_an_mmdetection_configuration(
    scales: tuple[float, ...], ratios: tuple[float, ...]
) -> None:
    strides = (4, 8, 16, 32, 64)
    text = f"scales={list(scales)}, ratios={list(ratios)}, strides={list(strides)}"
    _, config = fields(MMDET, mmdet_text(text))
    found = ShiftedAnchors(DetectorConfig(**config["detector_config"])).cell_anchors
    for stride, level in zip(strides, found, strict=True):
        # As their AnchorGenerator.gen_single_level_base_anchors, around 0.
        heights = torch.sqrt(torch.tensor(ratios, dtype=torch.float32))
        sides = stride * torch.tensor(scales, dtype=torch.float32)
        w, h = ((ratio[:, None] * sides).flatten() for ratio in (1 / heights, heights))
        torch.testing.assert_close(level, torch.stack([-w, -h, w, h], 1) / 2)


def test_codes_and_thresholds_of_an_mmdetection_configuration() -> None:
    stds = "target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.05, 0.05, 0.1, 0.1]"
    test = "max_per_img=300, nms=dict(iou_threshold=0.6, type='nms'), score_thr=0.2"
    detector = fields(MMDET, mmdet_text(roi=stds, test=test))[1]["detector_config"]
    assert detector["box_weights"] == (20.0, 20.0, 10.0, 10.0)
    assert [detector[name] for name in ("detections", "nms", "score_threshold")] == [300, 0.6, 0.2]
    test = "max_per_img=-1, nms=dict(iou_threshold=0.3, type='soft_nms'), score_thr=0.0"
    detector = fields(MMDET, mmdet_text(test=test))[1]["detector_config"]
    assert [detector[name] for name in ("detections", "nms", "score_threshold")] == [100, 0.5, 0.05]


def found_in(model: str) -> dict[str, Any]:
    return detector_settings(parse_settings(f"model = dict({model})"))


@pytest.mark.parametrize(
    ("test", "wanted", "told"),
    [
        (
            "rpn=dict(nms_pre=2000, max_per_img=1500, nms=dict(type='nms', iou_threshold=0.8))",
            {"pre_nms_per_level": 2000, "proposals": 1500, "rpn_nms": 0.8},
            (),
        ),
        ("rpn=dict(nms_pre=500, nms_post=1000, max_num=600, nms_thr=0.6)", (500, 600, 0.6), ()),
        ("rpn=dict(nms_pre=-1, max_per_img=100000)", {}, ("rpn.nms_pre", "rpn.max_per_img")),
        ("rcnn=dict(nms=dict(type='soft_nms', iou_threshold=0.5))", {}, ("rcnn.nms",)),
        (
            "rcnn=dict(score_thr=0, mask_thr_binary=0.4, max_per_img=-1)",
            {},
            ("score_thr", "binary", "per_img"),
        ),
        ("rcnn=dict(mask_thr_binary=0.5)", {}, ()),
    ],
)
def test_thresholds_that_are_taken_and_that_are_not(
    test: str, wanted: Any, told: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    if isinstance(wanted, tuple):
        wanted = dict(zip(("pre_nms_per_level", "proposals", "rpn_nms"), wanted, strict=True))
    assert found_in(f"test_cfg=dict({test})") == wanted
    assert len(caplog.records) == len(told)
    for name, record in zip(sorted(told), sorted(r.getMessage() for r in caplog.records), strict=True):
        assert name in caplog.text
        assert "is not used, but the default" in record


def extractors(extractor: str = "", layer: str = "", mask: str | None = None) -> str:
    box, other = (
        f"dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', sampling_ratio=0{part}), "
        f"featmap_strides=[4, 8, 16, 32]{extractor})"
        for part in (layer, layer if mask is None else mask)
    )
    return f"roi_head=dict(bbox_roi_extractor={box}, mask_roi_extractor={other})"


def test_how_regions_are_pooled() -> None:
    assert found_in(extractors()) == {}
    assert found_in(extractors(", finest_scale=56", ", aligned=True")) == {}
    wanted = {"canonical_size": 224, "roi_aligned": False}
    assert found_in(extractors(layer=", aligned=False")) == wanted
    assert found_in(extractors(", finest_scale=28")) == {"canonical_size": 112, "roi_aligned": True}


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (extractors().replace("RoIAlign", "RoIPool"), "bbox_roi_extractor"),
        (extractors(layer=", pool_mode='max'"), "pool_mode"),
        (extractors().replace("Single", "Generic"), "SingleRoIExtractor"),
        (extractors().replace("[4, 8, 16, 32]", "[8, 16, 32, 64]"), "featmap_strides"),
        (extractors(layer=", aligned=False", mask=""), "the same for boxes and masks"),
        (extractors(", finest_scale=0"), "the same for boxes and masks"),
    ],
)
def test_another_pooling_is_rejected(model: str, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        found_in(model)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"anchors": "scales=[8], ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]"}, "anchor_generator"),
        ({"anchors": "octave_base_scale=4, scales_per_octave=1, strides=[4, 8, 16, 32, 64]"}, "octave_base"),
        (
            {"anchors": "scales=[8], ratios=[0.5, 1, 2], strides=[4, 8, 16, 32, 64], center_offset=0.5"},
            "center_offset",
        ),
        ({"anchors": "scales=[1e400], ratios=[1.0, 2.0, 3.0], strides=[4, 8, 16, 32, 64]"}, "scales"),
        ({"rpn": "target_stds=[0.1, 0.1, 0.2, 0.2]"}, r"rpn_head\.bbox_coder"),
        ({"roi": "target_means=[0.1, 0.0, 0.0, 0.0]"}, r"roi_head\.bbox_head\.bbox_coder"),
    ],
)
def test_what_this_network_does_not_have_is_rejected(changes: dict[str, str], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        fields(MMDET, mmdet_text(**changes))


@pytest.mark.parametrize("text", ["model = dict(" * 5000, "model = \0", "x" * (1 << 21), "model = [1, 2]"])
def test_configurations_that_are_no_python(text: str) -> None:
    assert detector_settings(parse_settings(text)) == {}
