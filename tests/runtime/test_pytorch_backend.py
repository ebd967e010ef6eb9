"""Checkpoints through the facade, with a network of random weights."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from imp_trt.errors import DependencyMissing, InvalidInput
from imp_trt.models.checkpoint import save_checkpoint
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
        assert "for tests only" in caplog.text
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


def test_devices(path: Path) -> None:
    with pytest.raises(InvalidInput, match="device"):
        Segmenter(path, device="gpu please")
    with pytest.raises(DependencyMissing, match="imp-doctor"):
        Segmenter(path, device="cuda:99")
