# SPDX-License-Identifier: Apache-2.0
"""Imports of maskrcnn-benchmark against its formulas, written out in tests/support/legacy_two_stage.py."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor

from imp_trt.errors import CheckpointError
from imp_trt.export.onnx.from_model import onnx_from_module
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.deploy import DeployModule
from imp_trt.models.deploy_detector import _anchors
from imp_trt.models.importing import SOURCES, import_checkpoint
from imp_trt.models.importing.convert import _config, _detect, _load, _named
from imp_trt.models.importing.maskrcnn_benchmark import convert
from imp_trt.models.importing.reading import ForeignCheckpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.legacy_two_stage import LEGACY, LegacyNetwork, cell_anchors, file_names
from tests.support.networks import smooth_frames
from tests.support.two_stage import Source, State, compare, grid, shapes, weights

SIZE = (64, 96)
NAMES = ("cat", "dog", "bird")


def frames() -> Tensor:
    return smooth_frames(1, SIZE)


@functools.cache
def fixture() -> State:
    return weights(LEGACY, frames(), LegacyNetwork)


@functools.cache
def wanted() -> list[dict[str, Tensor]]:
    """What the source finds; its boxes end in their last pixel, ours behind it."""
    found = LegacyNetwork(fixture(), LEGACY).detect(frames())
    return [one | {"boxes": one["boxes"] + torch.tensor([0, 0, 1, 1])} for one in found]


def write(folder: Path) -> Path:
    """The file as the code base writes it, with several GPUs."""
    path = folder / "model_final.pth"
    state = {f"module.{name}": value for name, value in file_names(fixture()).items()}
    torch.save({"model": state, "optimizer": {}, "scheduler": {}, "iteration": 90000}, path)
    return path


@pytest.mark.slow
def test_parity(tmp_path: Path) -> None:
    network = import_checkpoint(write(tmp_path), input_size=SIZE, classes=NAMES)
    save_checkpoint(tmp_path / "own.safetensors", network, {})
    network, _ = load_model(tmp_path / "own.safetensors")
    assert network.config.classes.names == ("background", *NAMES)
    compare(wanted(), network.forward_frames(frames()), 1)
    module = DeployModule(network)
    with torch.no_grad():
        outputs = module(frames())
    compare(wanted(), dict(zip(OUTPUT_NAMES, outputs, strict=True)), 1)
    model = onnx_from_module(module, batch=1)
    opened = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = [torch.from_numpy(array) for array in opened.run(None, {"frame": frames().numpy()})]
    compare(wanted(), dict(zip(OUTPUT_NAMES, arrays, strict=True)), 1)


@pytest.mark.slow
def test_parity_needs_each_switch(tmp_path: Path) -> None:
    """The comparison fails without the boxes' last pixel, the offset of the anchors, or their rounding."""
    from dataclasses import replace

    network = import_checkpoint(write(tmp_path), "maskrcnn-benchmark", input_size=SIZE, classes=NAMES)
    state = network.state_dict()
    for change in ({"inclusive_boxes": False}, {"anchor_offset": 0.0}, {"anchors": "exact"}):
        detector = replace(network.config.detector_config, **change)
        other = ImpNetwork(replace(network.config, detector_config=detector)).eval()
        other.load_state_dict(state)
        with pytest.raises(AssertionError):
            compare(wanted(), other.forward_frames(frames()), 1)


def converted(source: Source, caffe: bool | None = None) -> Any:
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes(source).items()}
    return convert(ForeignCheckpoint(Path("x"), file_names(state)), None, caffe)


@pytest.mark.parametrize(
    ("source", "caffe", "backbone", "in_1x1", "std"),
    [
        (LEGACY, None, "resnet50", True, (1, 1, 1)),
        (LEGACY, False, "resnet50", False, (58.395, 57.12, 57.375)),
        (Source(blocks=(3, 4, 23, 3)), None, "resnet101", True, (1, 1, 1)),
        (Source(blocks=(3, 4, 23, 3), groups=32, width=8), None, "resnext101_32x8d", False, (1, 1, 1)),
    ],
)
def test_switches(
    source: Source, caffe: bool | None, backbone: str, in_1x1: bool, std: tuple[float, ...]
) -> None:
    found, names = _named(converted(source, caffe), ())
    config = _config(found, names, SIZE)
    assert (config.backbone, config.stride_in_1x1) == (backbone, in_1x1)
    assert config.std == pytest.approx([s / 255 for s in std])
    mean = (122.7717, 115.9465, 102.9801) if caffe is None else (123.675, 116.28, 103.53)
    assert config.mean == pytest.approx([m / 255 for m in mean])
    assert config.detector_config.inclusive_boxes
    with torch.device("meta"):
        network = ImpNetwork(config)
    own = {n: v.shape for n, v in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert {name: value.shape for name, value in found.state.items()} == own
    assert names == ("class_1", "class_2", "class_3")


def test_anchors() -> None:
    found, names = _named(converted(LEGACY), ())
    with torch.device("cpu"):
        network = ImpNetwork(_config(found, names, SIZE))
    assert network.detector is not None
    for index, level in enumerate(_anchors(network.detector, SIZE)):
        height, width = (-(-side // (4 << index)) for side in SIZE)
        theirs = cell_anchors(4 << index, 32 << index)[None] + grid(height, width, 4 << index)[:, None]
        ours = theirs.reshape(-1, 4) + torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(level, ours, atol=1e-4, rtol=0)


def test_anchors_in_a_file() -> None:
    usual = converted(LEGACY).detector
    assert usual["anchor_sizes"] == (32, 64, 128, 256, 512)
    state = file_names({name: torch.empty(shape, device="meta") for name, shape in shapes(LEGACY).items()})
    prefix = "rpn.anchor_generator.cell_anchors."
    state |= {f"{prefix}{i}": cell_anchors(4 << i, 12 << i) for i in range(5)}
    small = convert(ForeignCheckpoint(Path("x"), state), None, None).detector
    assert small["anchor_sizes"] == (12, 24, 48, 96, 192)
    state |= {f"{prefix}{i}": cell_anchors(4 << i, 32 << i)[[1, 0, 2]] for i in range(5)}
    with pytest.raises(CheckpointError, match=r"its anchors: .*aspect ratios on all: 0\.5, 1, 2"):
        convert(ForeignCheckpoint(Path("x"), state), None, None)


def test_names_tell_the_source(tmp_path: Path) -> None:
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes(LEGACY).items()}
    assert "maskrcnn-benchmark" in SOURCES
    assert _detect("x", file_names(state)) == "maskrcnn-benchmark"


def test_one_box_for_all_classes() -> None:
    state = {name: torch.randn(shape) for name, shape in shapes(LEGACY).items() if "bbox_pred" in name}
    names = shapes(LEGACY)
    empty = {n: torch.empty(s, device="meta") for n, s in names.items() if n not in state}
    theirs = file_names({**empty, **state})
    for kind in ("weight", "bias"):
        name = f"roi_heads.box.predictor.bbox_pred.{kind}"
        theirs[name] = theirs[name][:8]
    found = convert(ForeignCheckpoint(Path("x"), theirs), None, None).state
    boxes = found["detector.roi.box_predictor.bbox_pred.weight"].reshape(4, 4, -1)
    assert not boxes[0].any()
    assert all(torch.equal(row, theirs["roi_heads.box.predictor.bbox_pred.weight"][4:]) for row in boxes[1:])


def test_a_nearly_right_file_is_rejected() -> None:
    """Group normalization in the box head, and no fc7."""
    state = file_names({name: torch.zeros(shape) for name, shape in shapes(LEGACY).items()})
    state["roi_heads.box.feature_extractor.gn.weight"] = torch.zeros(64)
    del state["roi_heads.box.feature_extractor.fc7.bias"]
    found, names = _named(convert(ForeignCheckpoint(Path("x"), state), None, None), ())
    network = ImpNetwork(_config(found, names, SIZE))
    with pytest.raises(CheckpointError) as caught:
        _load("x.pth", network, found)
    lines = str(caught.value).splitlines()
    assert any("box_head.fc7.bias is missing" in line for line in lines)
    assert any("gn.weight is not part of the network" in line for line in lines)
    assert len(lines) <= 10
