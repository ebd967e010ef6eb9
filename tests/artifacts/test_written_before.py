# SPDX-License-Identifier: Apache-2.0
"""Artifacts and checkpoints that version 0.1.0 wrote before its modules moved still load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.artifacts import parse_manifest, read_artifact
from imp_trt.weights import bundled
from tests.support import tiny

BEFORE = Path(__file__).parent / "written_before"


def test_an_artifact_loads_and_runs() -> None:
    (path,) = BEFORE.glob("tiny*.onnx")
    assert read_artifact(path).manifest.kind == "onnx"
    with Segmenter(path) as segmenter:
        frame = tiny.frame()
        assert np.array_equal(segmenter.run(frame).semantic, tiny.truth(frame))


def test_the_manifest_of_an_exported_network_is_read() -> None:
    path = BEFORE / "small.fp32.onnx.json"
    manifest = parse_manifest(path.read_bytes(), path)
    assert (manifest.kind, manifest.precision, manifest.target) == ("onnx", "fp32", "onnxruntime")
    assert manifest.ops["InstanceMaskProjection"] == {"version": "1", "sampling": "bilinear"}
    assert manifest.verification == {"verified_on": None, "skipped": "by request (--no-verify)"}


def test_a_checkpoint_loads() -> None:
    """The bundled weights, whose recipe has the field names of then."""
    pytest.importorskip("torchvision")
    from imp_trt.models import read_checkpoint

    checkpoint = read_checkpoint(bundled())
    assert not checkpoint.network.training
    assert checkpoint.metadata["recipe"]
