# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other programs, and crafted ones: a short CheckpointError before memory or time is spent."""

from __future__ import annotations

import copy
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imp_trt.backends.pytorch import PyTorchBackend
from imp_trt.errors import CheckpointError, InvalidInput
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.config import DetectorConfig, ModelConfig
from imp_trt.models.network import ImpNetwork
from tests.support.networks import small_config

Content = dict[Any, Any]


def rejected(path: Path, match: str = "expected") -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load_model(path)
    assert len(str(caught.value)) < 700 + len(str(path))


def content(network: ImpNetwork) -> Content:
    return {"config": network.config.to_dict(), "metadata": {}, "weights": dict(network.state_dict())}


def kernel(c: Content) -> str:
    return next(name for name, value in c["weights"].items() if value.ndim == 4)


def change_kernel(change: Callable[[torch.Tensor], object]) -> Callable[[Content], object]:
    def apply(c: Content) -> object:
        c["weights"][kernel(c)] = change(c["weights"][kernel(c)])
        return c

    return apply


def laughs(depth: int = 60) -> object:
    nested: object = ["ha"]
    for _ in range(depth):
        nested = [nested, nested]
    return nested


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["weights"],
        lambda c: {f"layer{i}.{'x' * 90}": torch.zeros(1) for i in range(400)},
        lambda c: {0: torch.zeros(1), "epoch": 3, (1, 2): 4},
        lambda c: [c],
        lambda c: c | {"weights": None},
        lambda c: c | {"weights": [1]},
        lambda c: c | {"weights": {0: torch.zeros(1)}},
        lambda c: c | {"config": laughs()},
        lambda c: c | {"metadata": laughs()},
        lambda c: c | {"config": c["config"] | {"fpn_channels": laughs()}},
        lambda c: c | {"config": c["config"] | {"backbone": laughs()}},
        lambda c: c | {"config": c["config"] | {"classes": {"names": laughs(), "things": [], "palette": []}}},
        lambda c: c | {"config": c["config"] | {"input_size": [10**5000, 64]}},
        lambda c: c | {"config": c["config"] | {"background_score": 10**400}},
        change_kernel(lambda k: k.to_sparse()),
        change_kernel(lambda k: k.to("meta")),
        change_kernel(lambda k: (k * 100).round().to(torch.int8)),
        change_kernel(lambda k: k.to(torch.int32)),
        change_kernel(lambda k: torch.full(k.shape, 1e300, dtype=torch.float64)),
        change_kernel(lambda k: k.to(torch.complex64)),
        change_kernel(lambda k: k.reshape(-1)),
        change_kernel(lambda k: None),
        change_kernel(lambda k: torch.zeros(1).expand(1 << 40)),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_pt_files(tmp_path: Path, network: ImpNetwork, change: Callable[[Content], object]) -> None:
    torch.save(change(content(network)), tmp_path / "x.pt")
    rejected(tmp_path / "x.pt")


@pytest.mark.slow
def test_a_zip_bomb(tmp_path: Path, network: ImpNetwork) -> None:
    buffer = io.BytesIO()
    torch.save(content(network), buffer)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(200 << 20))
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    rejected(tmp_path / "x.pt", "unpacked")


@pytest.mark.parametrize("suffix", [".PT", ".SafeTensors", ".pth"])
def test_suffixes_in_any_case(tmp_path: Path, network: ImpNetwork, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    if "s" in suffix.lower():
        save_checkpoint(path, network, {})
    else:
        torch.save(content(network), path)
    load_model(path)


def rewrite(path: Path, change: Callable[[Content], object]) -> None:
    """Change the header of a safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def config_change(*names: str, value: object) -> Callable[[Content], None]:
    def change(header: Content) -> None:
        config = json.loads(header["__metadata__"]["config"])
        place = config
        for name in names[:-1]:
            place = place[name]
        place[names[-1]] = value
        header["__metadata__"]["config"] = json.dumps(config)

    return change


VALUES = [1.5, -1, 0, "8", None, [], {}, True, 1e400, 10**30, [[[]]], float("nan")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fpn_channels", "semantic_channels", "input_size", "mean", "classes", "detector"]
)
def test_config_fields_of_other_types(tmp_path: Path, network: ImpNetwork, name: str) -> None:
    saved = save_checkpoint(tmp_path / "x.safetensors", network, {}).read_bytes()
    for value in VALUES:
        if name == "detector" and value is True:
            continue
        (tmp_path / "x.safetensors").write_bytes(saved)
        rewrite(tmp_path / "x.safetensors", config_change(name, value=value))
        rejected(tmp_path / "x.safetensors")


def test_detector_fields_of_other_types() -> None:
    data = DetectorConfig()
    for name, value in vars(data).items():
        for other in VALUES:
            if type(other) is type(value) is bool or other == value:
                continue
            if isinstance(value, float) and other == 1.5:
                continue
            if name == "roi_samples" and type(other) is int and other == 0:
                continue  # adaptive
            if isinstance(other, list):
                other = tuple(other)
            with pytest.raises(InvalidInput):
                DetectorConfig(**{name: other})


def test_numbers_of_numpy_are_numbers() -> None:
    config = DetectorConfig(proposals=np.int64(5), nms=np.float32(0.5), anchor_sizes=tuple(np.arange(1, 6)))
    assert config.proposals == 5


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h["__metadata__"].update(config="[" * 100_000), "JSON config"),
        (lambda h: h["__metadata__"].update(metadata="{" * 100_000), "JSON config"),
        (lambda h: h["__metadata__"].update(config=json.dumps([1])), "config"),
        (lambda h: h.update(__metadata__=[]), "format|safetensors"),
        (config_change("input_size", value=[64000, 64000]), "pixels"),
        (lambda h: next(v for k, v in h.items() if "weight" in k).update(dtype="I32"), "floating"),
        (lambda h: next(v for k, v in h.items() if "weight" in k).update(dtype="U32"), "floating"),
        (lambda h: next(v for k, v in h.items() if "weight" in k).update(shape=[1 << 40]), "expected"),
        (lambda h: h.update(x=7), "unknown"),
        (config_change("unknown_field", value=1), "fields"),
    ],
)
def test_safetensors_headers(
    tmp_path: Path, network: ImpNetwork, change: Callable[[Content], object], match: str
) -> None:
    path = save_checkpoint(tmp_path / "x.safetensors", network, {})
    rewrite(path, change)
    rejected(path, match)


def test_nothing_is_read_before_the_shapes_are_compared(tmp_path: Path, network: ImpNetwork) -> None:
    path = save_checkpoint(tmp_path / "x.safetensors", network, {})
    rewrite(path, lambda h: next(v for k, v in h.items() if "weight" in k).update(shape=[1 << 28]))
    with path.open("ab") as file:
        file.truncate(3 << 30)  # sparse
    tracemalloc.start()
    rejected(path)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1 << 30, 1 << 63])
def test_header_lengths(tmp_path: Path, network: ImpNetwork, size: int) -> None:
    path = save_checkpoint(tmp_path / "x.safetensors", network, {})
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    rejected(path, "complete safetensors")


@pytest.fixture
def default_dtype(request: pytest.FixtureRequest) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("default_dtype", [torch.float64, torch.float16, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("name", ["panoptic-fpn-imp", "semantic-fpn"])
def test_another_default_type_of_the_program(default_dtype: torch.dtype, tmp_path: Path, name: str) -> None:
    network = ImpNetwork(small_config(name)).eval()
    assert {v.dtype for v in network.state_dict().values() if v.is_floating_point()} == {torch.float32}
    path = save_checkpoint(tmp_path / "x.safetensors", network, {})
    backend = PyTorchBackend(path, device="cpu")
    frames = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)
    found = backend.infer(frames)
    torch.set_default_dtype(torch.float32)
    expected = backend.infer(frames)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.exhaustive
@pytest.mark.parametrize("default_dtype", [torch.float64, torch.bfloat16], indirect=True)
def test_an_export_with_another_default_type(default_dtype: torch.dtype) -> None:
    from imp_trt.export.onnx.from_model import onnx_from_module
    from imp_trt.models.deploy import DeployModule

    torch.manual_seed(0)
    network = ImpNetwork(small_config())
    found = onnx_from_module(DeployModule(network)).SerializeToString()
    torch.set_default_dtype(torch.float32)
    assert found == onnx_from_module(DeployModule(network)).SerializeToString()


def test_model_config_keeps_valid_files() -> None:
    config = small_config()
    assert ModelConfig.from_dict(json.loads(json.dumps(copy.deepcopy(config.to_dict())))) == config
