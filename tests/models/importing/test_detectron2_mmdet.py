# SPDX-License-Identifier: Apache-2.0
"""Imports of Detectron2 and mmdetection against their formulas, written out in tests/support/two_stage.py."""

from __future__ import annotations

import functools
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from imp_trt.errors import CheckpointError
from imp_trt.export.onnx.from_model import onnx_from_module
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.config import DetectorConfig
from imp_trt.models.deploy import DeployModule
from imp_trt.models.detector import PyramidRoIPool
from imp_trt.models.importing import import_checkpoint
from imp_trt.models.importing.classes import COCO_STUFF, COCO_THINGS
from imp_trt.models.importing.convert import _CONVERTERS, _config, _named, _with_things
from imp_trt.models.importing.layout import Converted
from imp_trt.models.importing.reading import ForeignCheckpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import smooth_frames
from tests.support.two_stage import Network, Source, State, compare, shapes, weights
from tests.support.variants import variants

SIZE = (64, 96)
NAMES = ("cat", "dog", "bird")

DETECTRON2 = Source()
PANOPTIC = Source(stuff=5)
MMDET = Source(bgr=False, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), stride_in_1x1=False)
PYTORCH_STYLE = """img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
model = dict(backbone=dict(type='ResNet', depth=50, style='pytorch'))"""
CAFFE_STYLE = """model = dict(
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(type='ResNet', depth=50, style='caffe'))"""
OTHER_PIXELS = "mean=[100.0, 110.0, 120.0], std=[50.0, 51.0, 52.0], to_rgb=True, style='pytorch'"

FIXED_SAMPLES = f"{PYTORCH_STYLE}, roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2)"

MMDET_NAMES = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm", "backbone.bn1"),
    (r"backbone\.bottom_up\.stem\.", "backbone."),
    (r"backbone\.bottom_up\.res2\.", "backbone.layer1."),
    (r"backbone\.bottom_up\.res3\.", "backbone.layer2."),
    (r"backbone\.bottom_up\.res4\.", "backbone.layer3."),
    (r"backbone\.bottom_up\.res5\.", "backbone.layer4."),
    (r"conv(\d)\.norm\.", r"bn\1."),
    (r"shortcut\.norm\.", "downsample.1."),
    (r"shortcut\.", "downsample.0."),
    (r"backbone\.fpn_lateral2\.", "neck.lateral_convs.0.conv."),
    (r"backbone\.fpn_lateral3\.", "neck.lateral_convs.1.conv."),
    (r"backbone\.fpn_lateral4\.", "neck.lateral_convs.2.conv."),
    (r"backbone\.fpn_lateral5\.", "neck.lateral_convs.3.conv."),
    (r"backbone\.fpn_output2\.", "neck.fpn_convs.0.conv."),
    (r"backbone\.fpn_output3\.", "neck.fpn_convs.1.conv."),
    (r"backbone\.fpn_output4\.", "neck.fpn_convs.2.conv."),
    (r"backbone\.fpn_output5\.", "neck.fpn_convs.3.conv."),
    (r"proposal_generator\.rpn_head\.conv\.", "rpn_head.rpn_conv."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", "rpn_head.rpn_cls."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", "rpn_head.rpn_reg."),
    (r"roi_heads\.box_head\.fc1\.", "roi_head.bbox_head.shared_fcs.0."),
    (r"roi_heads\.box_head\.fc2\.", "roi_head.bbox_head.shared_fcs.1."),
    (r"roi_heads\.box_predictor\.cls_score\.", "roi_head.bbox_head.fc_cls."),
    (r"roi_heads\.box_predictor\.bbox_pred\.", "roi_head.bbox_head.fc_reg."),
    (r"roi_heads\.mask_head\.mask_fcn1\.", "roi_head.mask_head.convs.0.conv."),
    (r"roi_heads\.mask_head\.mask_fcn2\.", "roi_head.mask_head.convs.1.conv."),
    (r"roi_heads\.mask_head\.mask_fcn3\.", "roi_head.mask_head.convs.2.conv."),
    (r"roi_heads\.mask_head\.mask_fcn4\.", "roi_head.mask_head.convs.3.conv."),
    (r"roi_heads\.mask_head\.deconv\.", "roi_head.mask_head.upsample."),
    (r"roi_heads\.mask_head\.predictor\.", "roi_head.mask_head.conv_logits."),
)


def mmdet_names(state: State) -> State:
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in MMDET_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def frames() -> Tensor:
    return smooth_frames(1, SIZE)


@functools.cache
def fixture(source: Source) -> State:
    return weights(source, frames())


def write(source: Source, path: Path, kind: str) -> Path:
    """The file as the code base writes it."""
    state = fixture(source)
    if kind == "pth":
        torch.save({"model": state, "optimizer": {}, "iteration": 1}, path := path / "model_final.pth")
    elif kind == "pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        extra = {"pixel_mean": np.array(source.mean), "pixel_std": np.array(source.std)}
        path = path / "model_final.pkl"
        path.write_bytes(pickle.dumps({"model": {**arrays, **extra}, "__author__": "me"}, protocol=2))
    else:
        meta = {"CLASSES": NAMES, "config": kind} if "to_rgb=True" in kind else {}
        meta = meta or {"dataset_meta": {"classes": NAMES}, "cfg": kind}
        torch.save({"meta": meta, "state_dict": mmdet_names(state)}, path := path / "latest.pth")
    return path


CASES: dict[str, tuple[Source, str]] = {
    "detectron2 pth": (DETECTRON2, "pth"),
    "detectron2 pkl": (replace(DETECTRON2, mean=(100.0, 110.0, 120.0), std=(2.0, 3.0, 4.0)), "pkl"),
    "mmdet pytorch": (MMDET, PYTORCH_STYLE),
    "mmdet caffe": (
        replace(MMDET, bgr=True, mean=DETECTRON2.mean, std=(1, 1, 1), stride_in_1x1=True),
        CAFFE_STYLE,
    ),
    "mmdet 2 x 2 samples": (replace(MMDET, samples=2), FIXED_SAMPLES),
    "mmdet other pixels": (replace(MMDET, mean=(100.0, 110.0, 120.0), std=(50.0, 51.0, 52.0)), OTHER_PIXELS),
}
USUAL = ("detectron2 pkl", "mmdet caffe", "mmdet other pixels")


@pytest.mark.slow
@pytest.mark.parametrize("name", variants(CASES, USUAL))
def test_parity(name: str, tmp_path: Path) -> None:
    source, kind = CASES[name]
    named = {} if "mmdet" in name else {"classes": NAMES}  # mmdetection's are in the file
    network = import_checkpoint(write(source, tmp_path, kind), input_size=SIZE, **named)
    assert network.config.detector_config.roi_samples == source.samples
    assert network.config.classes.names == ("background", *NAMES)
    wanted = Network(fixture(source), source).detect(frames())
    compare(wanted, network.forward_frames(frames()), 1)
    with torch.no_grad():
        outputs = DeployModule(network)(frames())
    compare(wanted, dict(zip(OUTPUT_NAMES, outputs, strict=True)), 1)


def test_pooled_features_have_as_many_samples_as_cells() -> None:
    """Those of the network against torchvision's RoIAlign with a sampling ratio of 0, in both forms."""
    config = fields(DETECTRON2)[1]["detector_config"]
    assert (config["roi_samples"], config["roi_aligned"]) == (0, True)
    levels = [torch.randn(1, 32, 256 >> k, 320 >> k) for k in range(5)]
    boxes = torch.tensor([[2.0, 3, 500, 60], [100, 80, 180, 160], [1000, 30, 1270, 900], [8, 8, 8, 30]])
    features = {f"p{k}": level for k, level in enumerate(levels, 2)}
    for side in (7, 14):
        wanted = Network({}, DETECTRON2).pool(levels, 0, boxes, side)
        pool = PyramidRoIPool(side, DetectorConfig(**config))
        torch.testing.assert_close(pool(features, [boxes], [(1024, 1280)]), wanted)
        fixed = PyramidRoIPool(side, DetectorConfig(**{**config, "roi_samples": 2}))
        assert (fixed(features, [boxes], [(1024, 1280)]) - wanted).abs().amax() > 0.1


def test_samples_of_an_mmdetection_file() -> None:
    for settings, samples in (
        (PYTORCH_STYLE, 0),
        (FIXED_SAMPLES, 2),
        (f"{FIXED_SAMPLES} sampling_ratio=0", 0),
        ("sampling_ratio=999", 0),
        ("sampling_ratio = 4", 4),
    ):
        assert fields(MMDET, settings)[1]["detector_config"]["roi_samples"] == samples


@pytest.mark.slow
def test_parity_of_a_panoptic_fpn_and_its_onnx_file(tmp_path: Path) -> None:
    network = import_checkpoint(write(PANOPTIC, tmp_path, "pth"), input_size=SIZE, classes=NAMES)
    save_checkpoint(tmp_path / "own.safetensors", network, {})
    network, _ = load_model(tmp_path / "own.safetensors")
    names = ("things", "stuff_1", "stuff_2", "stuff_3", "stuff_4", *NAMES)
    assert network.config.classes.names == names
    assert network.config.classes.things == (5, 6, 7)
    source = Network(fixture(PANOPTIC), PANOPTIC)
    found = network.forward_frames(frames())
    compare(source.detect(frames()), found, 5)
    semantic = source.semantic(frames()).argmax(1)
    assert len(semantic.unique()) > 2
    assert (found["semantic"] == semantic).float().mean() > 0.999
    model = onnx_from_module(DeployModule(network), batch=1)
    assert sum(any(a.name == "aligned" for a in node.attribute) for node in model.graph.node) == 2
    opened = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = [torch.from_numpy(array) for array in opened.run(None, {"frame": frames().numpy()})]
    results = dict(zip(OUTPUT_NAMES, outputs, strict=True))
    compare(source.detect(frames()), results, 5)
    assert (results["semantic"] == semantic).float().mean() > 0.999


def fields(source: Source, settings: str = "", **options: Any) -> tuple[ImpNetwork, dict[str, Any]]:
    """The network that tensors without values are imported to; every tensor has its shape."""
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes(source).items()}
    kind = "mmdet" if settings else "detectron2"
    foreign = ForeignCheckpoint(Path("x"), mmdet_names(state) if settings else state, (), settings)
    converted, names = _named(_CONVERTERS[kind][1](foreign, None, options.get("caffe")), options.get("names"))
    config = _config(converted, names, SIZE)
    with torch.device("meta"):
        network = ImpNetwork(config)
    own = {n: v.shape for n, v in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in _with_things(converted).state.items()} == own
    return network, config.to_dict()


X101 = Source(blocks=(3, 4, 23, 3), groups=32, width=8)
R101 = Source(blocks=(3, 4, 23, 3))


def test_switches_of_detectron2() -> None:
    for source, backbone, in_1x1, std in (
        (DETECTRON2, "resnet50", True, (1, 1, 1)),
        (R101, "resnet101", True, (1, 1, 1)),
        (X101, "resnext101_32x8d", False, (58.395, 57.12, 57.375)),
    ):
        network, config = fields(source)
        assert config["backbone"] == backbone
        assert config["stride_in_1x1"] is in_1x1
        assert config["mean"] == pytest.approx((0.485, 0.456, 0.406))
        assert config["std"] == pytest.approx([s / 255 for s in std])
        block: Any = network.backbone.body.stages[1][0]  # type: ignore[index]
        assert block.conv1.stride == ((2, 2) if in_1x1 else (1, 1))
    _, config = fields(DETECTRON2, caffe=False)
    assert config["stride_in_1x1"] is False
    assert config["std"] == pytest.approx([s / 255 for s in (58.395, 57.12, 57.375)])


@pytest.mark.slow
def test_switches_of_mmdetection() -> None:
    for settings, caffe, in_1x1 in (
        (PYTORCH_STYLE, None, False),
        (CAFFE_STYLE, None, True),
        ("model = dict()", None, False),
        ("model = dict()", True, True),
        (CAFFE_STYLE, False, False),
    ):
        _, config = fields(MMDET, settings, caffe=caffe)
        assert config["stride_in_1x1"] is in_1x1
    _, config = fields(X101, CAFFE_STYLE.replace("style='caffe'", "style='pytorch'"))
    assert config["std"] == pytest.approx([1 / 255] * 3)


def d2_detector(**more: Tensor) -> dict[str, Any]:
    """Fields of the detector that a file with more tensors is imported to."""
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes(DETECTRON2).items()}
    prefix = "proposal_generator.anchor_generator.cell_anchors."
    state |= {f"{prefix}{name[1:]}" if name[1:].isdigit() else name: value for name, value in more.items()}
    return _CONVERTERS["detectron2"][1](ForeignCheckpoint(Path("x"), state), None, None).__dict__


def d2_anchors(sizes: tuple[int, ...], ratios: tuple[float, ...]) -> dict[str, Tensor]:
    """As their DefaultAnchorGenerator.generate_cell_anchors: one size a level."""
    levels = {}
    for i, size in enumerate(sizes):
        rows = []
        for ratio in ratios:
            width = (size**2 / ratio) ** 0.5
            rows.append([-width / 2, -ratio * width / 2, width / 2, ratio * width / 2])
        levels[f"_{i}"] = torch.tensor(rows)
    return levels


def test_anchors_in_a_file_of_detectron2() -> None:
    default = d2_detector()["detector"]
    usual = d2_detector(**d2_anchors((32, 64, 128, 256, 512), (0.5, 1.0, 2.0)))["detector"]
    assert replace(DetectorConfig(), **usual) == replace(DetectorConfig(), **default)
    small = d2_detector(**d2_anchors((8, 16, 32, 64, 128), (0.25, 1.0, 4.0)))["detector"]
    assert small["anchor_sizes"] == (8, 16, 32, 64, 128)
    assert small["aspect_ratios"] == (0.25, 1.0, 4.0)
    several = {
        name: level * torch.tensor([[1.0], [1.5], [2.0]]) for name, level in d2_anchors((32,), (1.0,)).items()
    }
    for bad in (several, {"_0": torch.full((3, 4), float("nan"))}, {"_0": torch.zeros(0, 4)}):
        five = {f"_{i}": bad["_0"] for i in range(5)}
        for anchors in (bad, five):
            with pytest.raises(CheckpointError, match=r"detectron2 checkpoint: its anchors"):
                d2_detector(**anchors)


def test_a_file_of_detectron2_with_the_mean_of_rgb() -> None:
    """A ResNet of PyTorch: red was read as blue."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    found = d2_detector(pixel_mean=mean.view(3, 1, 1), pixel_std=std.view(3, 1, 1))
    assert found["model"]["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert found["model"]["stride_in_1x1"] is False
    found = d2_detector(pixel_mean=mean.flip(0), pixel_std=torch.ones(3))
    assert found["model"]["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert found["model"]["stride_in_1x1"] is True


def test_classes_of_coco_panoptic() -> None:
    assert len(COCO_STUFF) == 53
    _, config = fields(replace(DETECTRON2, things=80, stuff=54))
    names = config["classes"]["names"]
    assert names[:2] == ("things", "banner")
    assert names[53:55] == ("rug-merged", "person")
    assert len(names) == 134


@pytest.mark.parametrize(
    ("source", "count", "kept"),
    [
        ("detectron2", 80, COCO_THINGS),
        ("detectron2", 90, None),
        ("mmdet", 90, None),
        ("torchvision", 80, COCO_THINGS),
    ],
)
def test_which_numbers_of_classes_are_those_of_coco(
    source: Source, count: int, kept: tuple[str, ...] | None
) -> None:
    """Ninety classes of the user's own are not COCO's category ids, of which ten are left out."""
    converted = Converted(source, "resnet50", {}, count)
    found, names = _named(converted, ())
    assert found is converted
    assert names == (kept or tuple(f"class_{k}" for k in range(1, count + 1)))


def test_one_mask_and_one_box_for_all_classes() -> None:
    state = {name: torch.randn(shape) for name, shape in shapes(DETECTRON2).items() if "roi_heads" in name}
    for name in state:
        if "bbox_pred" in name or "mask_head.predictor" in name:
            state[name] = state[name][: 4 if "bbox_pred" in name else 1]
    empty = {n: torch.empty(s, device="meta") for n, s in shapes(DETECTRON2).items() if n not in state}
    foreign = ForeignCheckpoint(Path("x"), {**empty, **state})
    converted = _CONVERTERS["detectron2"][1](foreign, None, None).state
    boxes = converted["detector.roi.box_predictor.bbox_pred.weight"].reshape(4, 4, -1)
    assert not boxes[0].any()
    assert all(torch.equal(row, state["roi_heads.box_predictor.bbox_pred.weight"]) for row in boxes[1:])
    masks = converted["detector.roi.mask_predictor.mask_fcn_logits.bias"]
    assert torch.equal(masks[1:], state["roi_heads.mask_head.predictor.bias"].expand(3))
    scores = converted["detector.roi.box_predictor.cls_score.bias"]
    assert torch.equal(scores, state["roi_heads.box_predictor.cls_score.bias"][[3, 0, 1, 2]])
