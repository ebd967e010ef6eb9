# SPDX-License-Identifier: Apache-2.0
"""Checkpoints round-trip, reject damage, and never execute what they carry."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import torch

from imp_trt.data import files
from imp_trt.errors import CheckpointError, InvalidInput, OutputError
from imp_trt.models.checkpoint import load_model, save_checkpoint

META = {"data": "made up", "seed": 7}


@pytest.fixture
def saved(tmp_path, network):
    return save_checkpoint(tmp_path / "model.safetensors", network, META)


def test_round_trip(saved, network, frames):
    loaded, metadata = load_model(saved)
    assert metadata == META
    assert loaded.config == network.config
    assert not loaded.training
    for name, value in network.forward_frames(frames).items():
        assert torch.equal(value, loaded.forward_frames(frames)[name]), name


def test_half_precision_file_is_half_as_large_and_loads_as_float32(tmp_path, saved, network):
    half = save_checkpoint(tmp_path / "half.safetensors", network, META, half=True)
    assert half.stat().st_size < 0.55 * saved.stat().st_size
    loaded, _ = load_model(half)
    for name, value in network.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_file(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    with pytest.raises(CheckpointError, match="Fix"):
        load_model(saved)


def test_config_that_gives_a_field_twice(saved):
    content = saved.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    config = header["__metadata__"]["config"]
    header["__metadata__"]["config"] = config[:-1] + ', "fpn_channels": 8, "fpn_channels": 16}'
    text = json.dumps(header).encode()
    saved.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(CheckpointError, match="'fpn_channels' is given twice"):
        load_model(saved)


def test_file_of_another_program(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"expected format imp_trt\.checkpoint"):
        load_model(tmp_path / "other.safetensors")


def test_weights_that_do_not_fit_their_config(tmp_path, network, monkeypatch):
    weights = network.state_dict()
    weights.pop("semantic.classify.bias")
    monkeypatch.setattr(network, "state_dict", lambda: weights)
    path = save_checkpoint(tmp_path / "short.safetensors", network, META)
    with pytest.raises(CheckpointError, match=r"1 missing \['semantic.classify.bias'\]"):
        load_model(path)


def test_weights_that_are_not_finite(tmp_path, network, monkeypatch):
    weights = dict(network.state_dict())
    weights["semantic.classify.bias"] = torch.full_like(weights["semantic.classify.bias"], float("nan"))
    content = {"config": network.config.to_dict(), "metadata": META, "weights": weights}
    torch.save(content, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match="finite"):
        load_model(tmp_path / "nan.pt")
    monkeypatch.setattr(network, "state_dict", lambda: weights)
    with pytest.raises(InvalidInput, match=r"tensor semantic\.classify\.bias: expected finite"):
        save_checkpoint(tmp_path / "nan.safetensors", network, META)
    assert not (tmp_path / "nan.safetensors").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model", "model.safetensors.tmp"])
def test_a_name_that_could_not_be_read_is_not_written(tmp_path, network, name):
    with pytest.raises(InvalidInput, match=r"ends with \.safetensors"):
        save_checkpoint(tmp_path / name, network, META)
    assert not list(tmp_path.iterdir())


def test_a_value_beyond_float16_stays_float32(tmp_path, network, monkeypatch):
    name = "semantic.classify.weight"
    weights = {**network.state_dict(), name: torch.full_like(network.state_dict()[name], 7e4)}
    monkeypatch.setattr(network, "state_dict", lambda: weights)
    loaded, _ = load_model(save_checkpoint(tmp_path / "model.safetensors", network, META, half=True))
    assert torch.equal(loaded.state_dict()[name], weights[name])


WRAPPERS = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "a compiled part": lambda name: name.replace("backbone.", "backbone._orig_mod."),
    "DataParallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_names_of_wrappers(tmp_path, network, kind, monkeypatch):
    """What torch.compile(network).state_dict() has was written, but not read."""
    plain = network.state_dict()
    weights = {WRAPPERS[kind](name): value for name, value in plain.items()}
    content = {"config": network.config.to_dict(), "metadata": META, "weights": weights}
    torch.save(content, tmp_path / "model.pt")
    monkeypatch.setattr(network, "state_dict", lambda: weights)
    for path in (tmp_path / "model.pt", save_checkpoint(tmp_path / "model.safetensors", network, META)):
        loaded, _ = load_model(path)
        assert all(torch.equal(value, plain[name]) for name, value in loaded.state_dict().items())


def test_missing_file_and_unknown_suffix(tmp_path):
    with pytest.raises(CheckpointError, match="an existing file"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"\.safetensors, \.pt or \.pth"):
        load_model(tmp_path / "model.bin")


def test_pt_file_round_trip(tmp_path, network):
    content = {"config": network.config.to_dict(), "metadata": META, "weights": network.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    loaded, metadata = load_model(tmp_path / "model.pt")
    assert metadata == META
    assert loaded.config == network.config


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("metadata", None),
        ("metadata", [1]),
        ("config", None),
        ("config", {"fpn_channels": -1}),
        ("config", {"mean": [0.5, 0.5]}),
        ("weights", {"semantic.classify.bias": "none"}),
    ],
)
def test_malformed_content(tmp_path, network, part, value):
    content = {"config": network.config.to_dict(), "metadata": META, "weights": dict(network.state_dict())}
    if isinstance(value, dict):
        content[part].update(value)
    else:
        content[part] = value
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="expected"):
        load_model(tmp_path / "model.pt")


def test_three_anchor_sizes_are_rejected(tmp_path, network):
    config = network.config.to_dict()
    config["detector_config"]["anchor_sizes"] = [16, 32, 64]
    content = {"config": config, "metadata": META, "weights": network.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"p2\.\.p6"):
        load_model(tmp_path / "model.pt")


def test_pickled_code_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="other objects"):
        load_model(tmp_path / "bomb.pt")
    torch.save({"config": Bomb()}, tmp_path / "bomb2.pt")
    with pytest.raises(CheckpointError, match=r"an object of type posix\.mkdir.* save the state_dict\(\)"):
        load_model(tmp_path / "bomb2.pt")
    assert not (tmp_path / "exploded").exists()


def test_a_damaged_pt_file_is_to_be_replaced(tmp_path, network):
    torch.save({"config": {}, "weights": network.state_dict()}, tmp_path / "model.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="download the file again"):
        load_model(tmp_path / "cut.pt")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(saved, network, monkeypatch):
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OutputError, match="No space"):
        save_checkpoint(saved, network, {})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
