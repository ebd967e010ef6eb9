# SPDX-License-Identifier: Apache-2.0
"""An engine of a network without a detector: five of its six outputs have no values."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.segmenter import Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import engine_file
from tests.support.segmenters import Machine, nothing_left


@cache
def exported(batch: int) -> tuple[Any, Any]:
    """The network and its graph; both libraries get the same."""
    from imp_trt.export import onnx_from_module
    from imp_trt.models.deploy import DeployModule
    from tests.support.networks import detecting_network, small_config

    network = detecting_network(small_config("semantic-p2"))
    return network, onnx_from_module(DeployModule(network), batch)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_an_engine_without_detections_gives_class_maps(machine: Machine, tmp_path: Path, batch: int) -> None:
    network, model = exported(batch)
    manifest = tiny.manifest(batch, detections=0, mask_size=28, ops={})
    path = engine_file(tmp_path, machine[0].__name__, model, manifest)
    frames = [tiny.frame(64, 96, seed=1), tiny.frame(40, 130, seed=2), tiny.frame(64, 96, seed=3)]
    with Segmenter(path) as segmenter:
        for frame, result in zip(frames, segmenter.run_batch(frames), strict=True):
            assert result.semantic.shape == frame.shape[:2]
            found = result.instances
            assert len(found) == 0
            assert (found.boxes.shape, found.masks.shape) == ((0, 4), (0, 28, 28))
        late = segmenter.run(frames[0])
    import torch

    expected = network.forward_frames(torch.from_numpy(frames[0])[None])["semantic"][0]
    assert np.mean(late.semantic == expected.numpy()) > 0.999, "read after close"
    assert nothing_left(machine)
