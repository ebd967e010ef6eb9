# SPDX-License-Identifier: Apache-2.0
"""IMP in a network that was written elsewhere."""

from __future__ import annotations

import runpy

import numpy as np
import onnxruntime
import pytest

from tests.samples.conftest import SAMPLES


@pytest.mark.slow
def test_the_operator_in_a_foreign_network(tmp_path):
    path = tmp_path / "deeplab_imp.onnx"
    sample = runpy.run_path(str(SAMPLES / "foreign_model" / "foreign_model.py"))
    history = sample["main"](["--steps", "1", "-o", str(path)])
    assert all(loss > 0 for loss in history)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {
        "images": np.full((1, 3, 128, 256), 0.5, np.float32),
        "boxes": np.tile(np.array([40, 30, 200, 100], np.float32), (1, 20, 1)),
        "scores": np.zeros((1, 20), np.float32),
        "labels": np.zeros((1, 20), np.int64),
        "masks": np.ones((1, 20, 28, 28), np.float32),
    }
    (empty,) = session.run(None, feeds)
    feeds["scores"][0, 3] = 1.0
    (full,) = session.run(None, feeds)
    assert empty.shape == (1, 12, 128, 256)
    moved = np.abs(full - empty).max(axis=(0, 1))
    assert moved[40:90, 60:180].min() > 0, "the canvas reaches the logits"
    assert moved[:20].max() == 0, "and only where the instance is"
