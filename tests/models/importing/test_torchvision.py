# SPDX-License-Identifier: Apache-2.0
"""torchvision's own Mask R-CNN against its import: boxes, labels, scores and masks on random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from imp_trt.errors import InvalidInput
from imp_trt.models.deploy import DeployModule
from imp_trt.models.importing import import_checkpoint
from tests.support.networks import smooth_frames
from tests.support.variants import variants

SIZE = (64, 96)
NAMES = ("cat", "dog", "bird")


def redraw(model: MaskRCNN, seed: int = 0) -> MaskRCNN:
    """Random weights that find confident boxes of several classes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.8, 1.5, generator=generator)
    model.eval()
    heads = model.roi_heads
    # Few boxes are enough for the deviations of the outputs.
    proposals, detections = model.rpn._post_nms_top_n, heads.detections_per_img
    model.rpn._post_nms_top_n = {"training": 50, "testing": 50}
    heads.detections_per_img = 10
    # Each predictor in turn: what it reads depends on those before it.
    for layer, deviation in (
        (model.rpn.head.cls_logits, 2.0),
        (model.rpn.head.bbox_pred, 0.3),
        (heads.box_predictor.cls_score, 2.0),
        (heads.box_predictor.bbox_pred, 1.0),
        (heads.mask_predictor.mask_fcn_logits, 2.0),
    ):
        outputs: list[Tensor] = []
        hook = layer.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[2].flatten()))
        theirs(model, smooth_frames(1, SIZE))
        hook.remove()
        with torch.no_grad():
            layer.weight.mul_(deviation / torch.cat(outputs).std())
    model.rpn._post_nms_top_n, heads.detections_per_img = proposals, detections
    return model


def sizes() -> dict[str, object]:
    return {"min_size": SIZE[0], "max_size": SIZE[1], "num_classes": len(NAMES) + 1}


def version_1() -> MaskRCNN:
    torch.manual_seed(0)
    return redraw(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, **sizes()))


def version_2() -> MaskRCNN:
    torch.manual_seed(0)
    return redraw(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **sizes()))


def resnet18() -> MaskRCNN:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return redraw(MaskRCNN(backbone, **sizes()))


def theirs(model: MaskRCNN, frames: Tensor) -> list[dict[str, Tensor]]:
    """torchvision's own answer for frames [B, H, W, 3] BGR."""
    images = [frame.flip(-1).permute(2, 0, 1) / 255.0 for frame in frames]
    with torch.no_grad():
        answer: list[dict[str, Tensor]] = model(images)
    return answer


def compare(wanted: list[dict[str, Tensor]], found: dict[str, Tensor]) -> int:
    """Boxes, scores, labels and masks agree; returns the number of detections."""
    total = 0
    for i, one in enumerate(wanted):
        count = int(found["num_detections"][i])
        assert count == len(one["scores"])
        total += count
        assert torch.allclose(found["scores"][i, :count], one["scores"], atol=1e-4)
        assert torch.equal(found["labels"][i, :count].long(), one["labels"])
        assert torch.allclose(found["boxes"][i, :count], one["boxes"], atol=0.02)
    return total


MAKERS = {"version 1": version_1, "version 2": version_2, "resnet18": resnet18}


@pytest.mark.slow
@pytest.mark.parametrize("name", variants(MAKERS, ["version 2"]))
def test_parity(name: str, tmp_path: Path) -> None:
    model = MAKERS[name]()
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    network = import_checkpoint(path, classes=NAMES, input_size=SIZE)
    frames = smooth_frames(2, SIZE)
    found = network.forward_frames(frames)
    assert compare(theirs(model, frames), found) > 5
    deployed = DeployModule(network)
    with torch.no_grad():
        outputs = deployed(frames)
    assert torch.equal(outputs[5], found["num_detections"])
    assert torch.allclose(outputs[2], found["scores"], atol=1e-4)


@pytest.mark.parametrize("eps", [-1e-5, float("nan"), 1e5])
def test_eps_that_is_none(tmp_path: Path, eps: float) -> None:
    with pytest.raises(InvalidInput, match="batch_norm_eps: expected 0 to 1"):
        import_checkpoint(tmp_path / "missing.pth", batch_norm_eps=eps)


@pytest.mark.slow
def test_options_and_names_that_do_not_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = resnet18_state()
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(InvalidInput, match=r"no backbones of Caffe2.*leave --caffe out"):
        import_checkpoint(tmp_path / "a.pth", caffe=True)
    with pytest.raises(InvalidInput, match=r"got 2 names.*--classes FILE"):
        import_checkpoint(tmp_path / "a.pth", classes=NAMES[:2])
    import_checkpoint(tmp_path / "a.pth", classes=NAMES, input_size=SIZE, caffe=False)
    assert caplog.text == ""


@pytest.mark.slow
def test_eps_that_may_be_another_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Networks fine-tuned from torchvision's COCO weights have eps 0, which no state dict says."""
    state = resnet18_state()
    state["backbone.body.bn1.running_var"][0] = 1e-6
    torch.save(state, tmp_path / "a.pth")
    import_checkpoint(tmp_path / "a.pth", classes=NAMES, input_size=SIZE)
    assert "--batch-norm-eps 0" in caplog.text
    caplog.clear()
    import_checkpoint(tmp_path / "a.pth", classes=NAMES, input_size=SIZE, batch_norm_eps=1e-5)
    assert caplog.text == ""


def resnet18_state() -> dict[str, Tensor]:
    """A state dict without meaning."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return dict(MaskRCNN(backbone, **sizes()).state_dict())
