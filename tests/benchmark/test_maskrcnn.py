# SPDX-License-Identifier: Apache-2.0
"""Torchvision's Mask R-CNN as a baseline: exported, checked, run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from imp_trt.artifacts.manifest import InputContract
from imp_trt.benchmark import maskrcnn
from imp_trt.benchmark.maskrcnn import MaskRCNNBaseline, export_maskrcnn
from imp_trt.errors import DependencyMissing, ImpTrtError, VerificationError
from tests.support import tiny


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> MaskRCNNBaseline:
    folder = tmp_path_factory.mktemp("baseline")
    manifest = tiny.manifest(input=InputContract(height=64, width=96), detections=5)
    with pytest.MonkeyPatch.context() as patch:
        # Without COCO's weights, whatever this machine has.
        patch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
        made = MaskRCNNBaseline(manifest, 1, folder)
    assert len(list(folder.glob("*64x96_5_random*.onnx"))) == 1
    return made


@pytest.mark.slow
def test_the_exported_maskrcnn_answers_as_torchvision_does(baseline: MaskRCNNBaseline) -> None:
    images = [tiny.frame(90, 120, seed=i) for i in range(3)]
    found = baseline.check(images)
    assert found["frames"] == 2
    assert found["instances_matched"] == found["instances_torchvision"] > 0
    boxes, masks = baseline.run(images[0])  # type: ignore[misc]
    assert len(boxes) == len(masks)
    assert all(mask.shape == (90, 120) for mask in masks)
    assert any("random" in note for note in baseline.notes)
    assert "CPU" in baseline.title


@pytest.mark.slow
def test_another_answer_is_rejected(baseline: MaskRCNNBaseline, monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(tensor: np.ndarray) -> dict[str, np.ndarray]:
        found = infer(tensor)
        return found | {"boxes": found["boxes"] + 40}

    infer = baseline._infer
    monkeypatch.setattr(baseline, "_infer", moved)
    with pytest.raises(VerificationError, match="nothing is timed"):
        baseline.check([tiny.frame()])


def test_what_the_exporter_says_is_reported(tmp_path: Path) -> None:
    class Failing(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
            raise RuntimeError("not\nthis one")

    with pytest.raises(ImpTrtError, match="RuntimeError: not this one"):
        export_maskrcnn(Failing(), (64, 96), tmp_path / "work" / "baseline.onnx")
    assert list((tmp_path / "work").iterdir()) == []


def test_without_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[export\]"):
        MaskRCNNBaseline(tiny.manifest(), 1, tmp_path)


@pytest.mark.slow
def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, trained = maskrcnn.maskrcnn_model((64, 96), 5)
    second, _ = maskrcnn.maskrcnn_model((64, 96), 5)
    if trained:
        pytest.skip("COCO's weights are in torch.hub's folder")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(
        first.roi_heads.box_predictor.cls_score.weight, second.roi_heads.box_predictor.cls_score.weight
    )
