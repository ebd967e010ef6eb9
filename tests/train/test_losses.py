# SPDX-License-Identifier: Apache-2.0
"""The semantic loss, and where its gradient goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from imp_trt.models.network import ImpNetwork
from imp_trt.train.batches import draw_batch
from imp_trt.train.losses import StageLosses, semantic_loss, trains_semantic
from tests.support.networks import detecting_network
from tests.train.boxes import CLASSES, CONFIG, RECIPE, Boxes

pytestmark = pytest.mark.usefixtures("one_thread")


def pixels(seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 8, 8))
    target[0, :3] = 255
    return logits, target


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)])
def test_all_pixels_count_as_pytorch_counts_them(weights):
    logits, target = pixels()
    expected = F.cross_entropy(logits, target, weight=weights, ignore_index=255)
    assert torch.equal(semantic_loss(logits, target, weights, None), expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_hard_pixels_are_the_worst_of_those_that_are_labeled(share):
    logits, target = pixels()
    each = F.cross_entropy(logits, target, reduction="none", ignore_index=255)
    labeled = each[target != 255].detach().sort(descending=True).values
    assert len(labeled) == 104
    kept = labeled[: int(share * 104)]
    torch.testing.assert_close(semantic_loss(logits, target, None, share), kept.mean())
    gradient = torch.autograd.grad(semantic_loss(logits, target, None, share), logits)[0]
    touched = gradient.abs().sum(dim=1) > 0
    assert int(touched.sum()) == len(kept)
    assert not touched[target == 255].any()


def test_the_smallest_ohem_ratio_keeps_one_pixel():
    logits, target = pixels()
    each = F.cross_entropy(logits, target, reduction="none", ignore_index=255)
    torch.testing.assert_close(semantic_loss(logits, target, None, 1e-9), each.max())


@pytest.mark.parametrize("share", [None, 0.25])
@pytest.mark.parametrize("weights", [None, torch.ones(3, dtype=torch.float64)])
def test_an_image_without_labels_gives_zero_not_nan(weights, share):
    logits, target = pixels()
    loss = semantic_loss(logits, torch.full_like(target, 255), weights, share)
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


def test_factors_of_the_losses():
    torch.manual_seed(0)
    network = ImpNetwork(CONFIG).train()
    batch = draw_batch(Boxes(), CLASSES, RECIPE, (0, 2, 0))

    def losses(recipe):
        torch.manual_seed(1)
        return StageLosses(network, recipe, 2, None)(batch)

    before = losses(RECIPE)
    after = losses(replace(RECIPE, semantic_weight=2.0, instance_weight=0.5))
    assert set(before) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
        "semantic",
    }
    for name, value in before.items():
        factor = 2.0 if name == "semantic" else 0.5
        torch.testing.assert_close(after[name], factor * value, rtol=1e-4, atol=1e-6)


def test_which_stages_train_the_semantic_head():
    alone = replace(RECIPE, semantic_in_stage_one=False)
    no_head = replace(CONFIG, semantic_head="none")
    no_detector = replace(CONFIG, detector=False, imp=False)
    table = {
        (config, recipe): [trains_semantic(c, r, stage) for stage in (1, 2)]
        for config, c in (("panoptic", CONFIG), ("mask", no_head), ("semantic", no_detector))
        for recipe, r in (("joint", RECIPE), ("alone", alone))
    }
    assert table == {
        ("panoptic", "joint"): [True, True],
        ("panoptic", "alone"): [False, True],
        ("mask", "joint"): [False, False],
        ("mask", "alone"): [False, False],
        ("semantic", "joint"): [True, True],
        ("semantic", "alone"): [True, True],
    }


class Gradients:
    """The semantic loss of stage two in float64, with boxes that nothing moves.

    Boxes carry no gradient by design, so finite differences agree with backpropagation only where the
    weights do not move them: the proposals are given, and the box head predicts no shift.
    """

    def __init__(self, monkeypatch, gradient):
        # The detector and the canvas compute in float32 under any autocast; here all is float64.
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.manual_seed(0)
        self.network = ImpNetwork(CONFIG).double().train()
        predictor = self.network.detector.roi.box_predictor.bbox_pred
        torch.nn.init.zeros_(predictor.weight)
        torch.nn.init.zeros_(predictor.bias)
        self.batch = draw_batch(Boxes(), CLASSES, RECIPE, (0, 2, 0))
        proposals = [t["boxes"].double() + 1.25 for t in self.batch.instances]
        assert all(len(p) for p in proposals)
        monkeypatch.setattr(self.network.detector, "losses", lambda *_: ({}, proposals))
        self.losses = StageLosses(self.network, replace(RECIPE, canvas_gradient=gradient), 2, None)
        self.loss().backward()

    def loss(self):
        return self.losses(self.batch)["semantic"]

    @torch.no_grad()
    def measured(self, weight, index):
        """Central difference of the loss in one weight."""
        flat, before, values = weight.view(-1), weight.view(-1)[index].item(), []
        for sign in (1, -1):
            flat[index] = before + sign * 1e-6
            values.append(self.loss().item())
        flat[index] = before
        return (values[0] - values[1]) / 2e-6

    def agrees(self, name):
        """Whether the gradient of three weights of a parameter, the steepest, is the measured one."""
        weight = self.network.get_parameter(name)
        assert weight.grad is not None, name
        steepest = weight.grad.reshape(-1).abs().topk(3).indices.tolist()
        assert weight.grad.reshape(-1)[steepest[0]] != 0, name
        flat = weight.grad.contiguous().view(-1)
        return all(flat[i].item() == pytest.approx(self.measured(weight, i), rel=1e-3) for i in steepest)


REACHED = {
    "semantic head": "semantic.fuse.0.0.weight",
    "mask head": "detector.roi.mask_head.0.0.weight",
    "mask predictor": "detector.roi.mask_predictor.mask_fcn_logits.weight",
    "box scores": "detector.roi.box_predictor.cls_score.weight",
    "box head": "detector.roi.box_head.fc6.weight",
    "fpn": "backbone.fpn.layer_blocks.0.0.weight",
    "body": "backbone.body.stages.1.0.conv1.weight",
}


@pytest.mark.slow
def test_the_semantic_loss_reaches_everything_through_the_canvas(monkeypatch):
    gradients = Gradients(monkeypatch, "all")
    for part, name in REACHED.items():
        assert gradients.agrees(name), part


@pytest.mark.slow
def test_with_heads_the_canvas_does_not_reach_the_fpn(monkeypatch):
    gradients = Gradients(monkeypatch, "heads")
    for part, name in REACHED.items():
        # The FPN still feeds the semantic head; only the gradient through the canvas is missing.
        assert gradients.agrees(name) == (part not in ("fpn", "body")), part


def projected(monkeypatch, source, detections):
    """What stage two projects on its canvas: detections and masks, and the batch they belong to."""
    torch.manual_seed(0)
    network = detecting_network(CONFIG).train()
    project, seen = network.project, []
    monkeypatch.setattr(network, "project", lambda *args: seen.append(args) or project(*args))
    batch = draw_batch(Boxes(), CLASSES, RECIPE, (0, 2, 0))
    plan = replace(RECIPE, canvas_source=source, canvas_detections=detections)
    losses = StageLosses(network, plan, 2, None)(batch)
    [(found, masks, *_)] = seen
    return found, masks, batch, losses["semantic"]


def shows_the_truth(found, batch, row):
    """Whether the slots from `row` on are the labeled boxes at score 1, then nothing."""
    return all(
        found.boxes[i, row : row + len(t["boxes"])].equal(t["boxes"])
        and found.labels[i, row : row + len(t["boxes"])].equal(t["labels"] - 1)
        and found.scores[i, row:].tolist() == [1.0] * len(t["boxes"]) + [0.0] * (6 - len(t["boxes"]))
        for i, t in enumerate(batch.instances)
    )


def test_the_canvas_shows_predictions(monkeypatch):
    found, masks, batch, _ = projected(monkeypatch, "predicted", 6)
    assert found.scores.shape == masks.shape[:2] == (2, 6)
    assert ((found.scores > 0) & (found.scores < 1)).any()
    assert not shows_the_truth(found, batch, 0)
    assert found.scores.requires_grad
    assert projected(monkeypatch, "predicted", 3)[0].scores.equal(found.scores[:, :3])


def test_the_canvas_shows_the_truth(monkeypatch):
    found, masks, batch, _ = projected(monkeypatch, "ground-truth", 6)
    assert shows_the_truth(found, batch, 0)
    assert masks.requires_grad


def test_the_canvas_shows_both_and_the_predictions_then_carry_no_gradient(monkeypatch):
    # The truth lies on them where they are right: the gradient that is left would only lower scores.
    predicted = projected(monkeypatch, "predicted", 6)[0]
    found, masks, batch, loss = projected(monkeypatch, "both", 6)
    assert found.scores.shape == masks.shape[:2] == (2, 12)
    assert found.scores[:, :6].equal(predicted.scores)
    assert shows_the_truth(found, batch, 6)
    assert found.counts.equal(predicted.counts + torch.tensor([len(t["boxes"]) for t in batch.instances]))
    assert not found.scores.requires_grad
    in_masks = torch.autograd.grad(loss, masks)[0].abs().sum(dim=(2, 3))
    assert in_masks[:, 6:].any()


def test_boxes_carry_no_gradient(monkeypatch):
    gradients = Gradients(monkeypatch, "all")
    assert gradients.network.get_parameter("detector.roi.box_predictor.bbox_pred.weight").grad is None
