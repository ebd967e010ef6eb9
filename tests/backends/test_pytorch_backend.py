# SPDX-License-Identifier: Apache-2.0
"""Checkpoints through the facade, with a network of random weights."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from imp_trt.backends.pytorch import choose_device
from imp_trt.errors import DependencyMissing, InvalidInput
from imp_trt.models.checkpoint import load_model, save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from imp_trt.segmenter import Segmenter
from tests.support import tiny


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = ImpNetwork(system("panoptic-fpn-imp", tiny.CLASSES, (64, 96)))
    where = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_checkpoint(where, network, {"terms": "for tests only"})
    return where


def test_a_checkpoint_runs_like_an_artifact(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "imp_trt"), Segmenter(path, device="cpu", threads=1) as segmenter:
        assert caplog.text.count("for tests only") == 1
        manifest = segmenter.manifest
        frame = tiny.frame(90, 120)
        frame.flags.writeable = False
        first, second = segmenter.run(frame), segmenter.run(frame)
    assert manifest.kind == "checkpoint"
    assert manifest.terms == "for tests only"
    assert manifest.sampling == "bilinear"
    assert manifest.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (manifest.input.height, manifest.input.width) == (64, 96)
    assert first.size == (90, 120)
    assert first.semantic.max() < 4
    assert np.array_equal(first.semantic, second.semantic)
    assert first.instances.scores.tobytes() == second.instances.scores.tobytes()
    assert set(first.instances.labels.tolist()) <= set(tiny.CLASSES.things)


def test_outputs_have_the_promised_types(path: Path) -> None:
    with Segmenter(path, device="cpu", threads=1) as segmenter:
        outputs = segmenter._open_backend().infer(tiny.frame()[None])
        for spec in segmenter.manifest.outputs:
            assert (outputs[spec.name].dtype.name, outputs[spec.name].shape) == (spec.dtype, spec.shape)


@pytest.mark.parametrize("terms", ["", None])
def test_no_terms(tmp_path: Path, path: Path, terms: str | None, caplog: pytest.LogCaptureFixture) -> None:
    network, _ = load_model(path)
    where = tmp_path / "free.safetensors"
    save_checkpoint(where, network, {"terms": terms})
    with caplog.at_level(logging.WARNING, "imp_trt"), Segmenter(where, device="cpu") as segmenter:
        assert segmenter.manifest.terms is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    "name", ["gpu please", "", "meta", "mps", "xpu:0", "cpu:1", "CUDA", "cuda:", "cuda:-1", "cuda:01", 0]
)
def test_other_devices_are_rejected(name: str) -> None:
    with pytest.raises(InvalidInput, match="device"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "cuda:256", "cuda:99999999999999999999"])
def test_a_missing_gpu(path: Path, name: str) -> None:
    with pytest.raises(DependencyMissing, match="imp-doctor") as caught:
        Segmenter(path, device=name)
    assert caught.value.exit_code == 5


def test_the_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == torch.device("cpu")
    # A driver that is too old: PyTorch counts the GPUs but cannot use them.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(DependencyMissing, match="cuda"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None) == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DependencyMissing, match="2 GPUs"):
        choose_device("cuda:2")
