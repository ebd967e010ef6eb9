# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are nearly right, and the command: short errors, and no file after one."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from imp_trt.cli.import_ import main
from imp_trt.errors import CheckpointError, InvalidInput
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.importing import convert, import_checkpoint
from imp_trt.models.importing.reading import ForeignCheckpoint
from imp_trt.models.network import ImpNetwork
from tests.support.networks import small_config

SIZE = (64, 64)
WIDTH = 64
"""Of the box head: files of 70 MB."""


@functools.cache
def state() -> dict[str, Tensor]:
    """A torchvision Mask R-CNN with two classes."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return MaskRCNN(
        backbone,
        box_head=TwoMLPHead(256 * 7 * 7, WIDTH),
        box_predictor=FastRCNNPredictor(WIDTH, 3),
        mask_predictor=MaskRCNNPredictor(256, 256, 3),
    ).state_dict()


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    path = folder / "model.pth"
    torch.save({"model": tensors}, path)
    return path


def error_of(folder: Path, tensors: dict[str, Tensor], **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(saved(folder, tensors), input_size=SIZE, **options)
    text = str(caught.value)
    assert len(text.splitlines()) <= 10
    assert len(text) < 1500
    return text


def test_a_missing_tensor(tmp_path: Path) -> None:
    tensors = dict(state())
    del tensors["rpn.head.bbox_pred.bias"]
    assert "rpn.head.bbox_pred.bias is missing" in error_of(tmp_path, tensors)


def test_an_unknown_tensor(tmp_path: Path) -> None:
    text = error_of(tmp_path, {**state(), "roi_heads.keypoint.weight": torch.zeros(1)})
    assert "roi.keypoint.weight is not part of the network" in text


def test_another_shape(tmp_path: Path) -> None:
    name = "roi_heads.box_head.fc7.bias"
    text = error_of(tmp_path, {**state(), name: torch.zeros(32)})
    assert "fc7.bias is [32], not [64]" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float, tmp_path: Path) -> None:
    name = "roi_heads.box_head.fc7.bias"
    assert "holds NaN" in error_of(tmp_path, {**state(), name: torch.full((WIDTH,), value)})


def test_integers(tmp_path: Path) -> None:
    name = "roi_heads.box_head.fc7.bias"
    assert "dtype int64" in error_of(tmp_path, {**state(), name: torch.zeros(WIDTH, dtype=torch.int64)})


@pytest.mark.parametrize(
    "change", [lambda v: torch.tensor(1.0), lambda v: v[:1].to(torch.complex64), lambda v: v.flatten()[:1]]
)
def test_shapes_and_types_of_no_network(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    text = error_of(tmp_path, {n: change(v) if v.ndim else v for n, v in state().items()})
    assert "shapes and types of torchvision" in text or "tensors of torchvision's network" in text


def test_a_hundred_problems_are_ten_lines(tmp_path: Path) -> None:
    tensors = {n: v for n, v in state().items() if "layer3" not in n or n.endswith("conv1.weight")}
    assert "more" in error_of(tmp_path, tensors)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["weight"], "such as weight."),
        (["backbone.body.conv1.weight"], "such as backbone.body.conv1.weight."),
        ([f"model.{i}.conv.weight" for i in range(500)], "as YOLO has them"),
        (["rpn.head.conv.weight", "roi_heads.box_predictor.cls_score.weight"], "a detector without masks"),
        (["roi_heads.box_predictor.0.cls_score.weight", "roi_heads.mask_head.predictor.weight"], "a cascade"),
        (["roi_heads.res5.0.conv1.weight", "roi_heads.mask_head.predictor.weight"], "no FPN"),
        (["transformer.encoder.layers.0.linear1.weight"], "a transformer"),
    ],
)
def test_another_network(names: list[str], kind: str, tmp_path: Path) -> None:
    text = error_of(tmp_path, {name: torch.zeros(1) for name in names})
    assert "expected a Mask R-CNN with FPN of torchvision" in text
    assert kind in text
    assert "imp-export FILE.onnx" in text


@pytest.mark.parametrize("system", ["panoptic-fpn-imp", "mask-rcnn-imp", "semantic-fpn", "semantic-p2"])
def test_a_checkpoint_of_this_package(system: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "own.safetensors", ImpNetwork(small_config(system)), {})
    with pytest.raises(CheckpointError, match=r"got one of imp-trt\. Fix: .*imp-export --weights FILE"):
        import_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("model.onnx", "imp-export FILE.onnx"),
        ("model.h5", "state_dict()"),
        ("model", "state_dict()"),
        ("model.ckpt", "rename it to .pth"),
        ("model.pth.tar", "rename it to .pth"),
    ],
)
def test_another_kind_of_file(name: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(tmp_path / name)
    assert fix in str(caught.value)


MARKS = ("roi_heads.mask_predictor.mask_fcn_logits.weight", "backbone.body.conv1.weight")


def foreign(*prefixes: str, more: tuple[str, ...] = ()) -> ForeignCheckpoint:
    """What tells torchvision's network, below each prefix, and other tensors."""
    names = [prefix + name for prefix in prefixes for name in MARKS]
    return ForeignCheckpoint(Path("a.pth"), {name: torch.zeros(1) for name in (*names, *more)})


@pytest.mark.parametrize(
    ("prefix", "more"),
    [
        ("module.", ("n_averaged",)),
        ("model.", ("criterion.weight", "metric.total")),
        ("net.detector.", ("net.head.weight",)),
        ("detector.", ()),
    ],
)
def test_a_prefix_of_the_network_alone(
    prefix: str, more: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    assert convert._without_prefix(foreign(prefix, more=more)).tensors.keys() == set(MARKS)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"a.pth: tensors whose names do not begin with {prefix} are left out: {', '.join(more)}"
    ] * bool(more)


def test_a_network_and_its_average_in_one_dictionary() -> None:
    with pytest.raises(CheckpointError, match=r"several, .* begin with ema_model\., model\."):
        convert._without_prefix(foreign("model.", "ema_model."))


def test_a_file_without_a_prefix_stays_as_it_is() -> None:
    given = foreign("", "ema.")
    assert convert._without_prefix(given) is given


def test_another_depth(tmp_path: Path) -> None:
    tensors = {n: v for n, v in state().items() if "layer3.1" not in n}
    assert "stages of 2, 2, 1, 2 blocks" in error_of(tmp_path, tensors)


def test_the_wrong_source(tmp_path: Path) -> None:
    assert "--from auto" in error_of(tmp_path, state(), source="torchvision-v2")


def test_the_wrong_number_of_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="2 names"):
        import_checkpoint(saved(tmp_path, state()), classes=["one"], input_size=SIZE)
    with pytest.raises(InvalidInput, match="source"):
        import_checkpoint(saved(tmp_path, state()), "caffe", input_size=SIZE)  # type: ignore[arg-type]


def command(folder: Path, *options: str) -> int:
    size = ("--input-size", "64", "64")
    return main([str(folder / "model.pth"), "-o", str(folder / "out.safetensors"), *size, *options])


@pytest.mark.slow
def test_the_command_writes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, state())
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    assert command(tmp_path, "--classes", str(tmp_path / "names.txt"), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["things"] == ["cat", "dog"]
    assert printed["backbone"] == "resnet18"
    network, metadata = load_model(tmp_path / "out.safetensors")
    assert network.config.input_size == SIZE
    assert network.config.classes.names == ("background", "cat", "dog")
    assert metadata["imported_from"] == "model.pth"
    assert network.config.detector_config.roi_samples == 2


@pytest.mark.parametrize(
    "bad", ["size", "names", "samples", "source", "damaged", "missing", "suffix", "no output folder"]
)
def test_bad_input_leaves_no_file(bad: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, state())
    (tmp_path / "names.txt").write_text("cat\ncat\n")
    options = {
        "size": ["--input-size", "63", "64"],
        "names": ["--classes", str(tmp_path / "names.txt")],
        "samples": ["--roi-samples", "17"],
        "source": ["--from", "elsewhere"],
        "suffix": ["-o", str(tmp_path / "out.pth")],
        "no output folder": ["-o", str(tmp_path / "names.txt" / "out.safetensors")],
    }.get(bad, [])
    if bad == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif bad == "missing":
        path.unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    assert command(tmp_path, *options) != 0
    shown = capsys.readouterr()
    assert not shown.out
    assert 1 <= len(shown.err.splitlines()) <= 10
    assert "Traceback" not in shown.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before
