# SPDX-License-Identifier: Apache-2.0
"""Fixed-point NMS against torchvision's greedy one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import nms

from imp_trt.models.config import NMS_ITERATIONS
from imp_trt.models.nms import (
    FixedPointNms,
    _float32_below,
    fixed_point_nms,
    suppression_matrix,
    unconverged,
    watch_convergence,
)


def kept(boxes, scores, threshold, iterations=NMS_ITERATIONS, **more):
    """Indices kept, in descending order of score, as torchvision returns them."""
    order = scores.argsort(descending=True, stable=True)
    return order[fixed_point_nms(boxes[order], threshold, iterations=iterations, **more)]


def random_boxes(seed, count, grid, extent=200.0):
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(count, 2, generator=generator) * extent
    size = torch.rand(count, 2, generator=generator) * 60 + 1
    if grid:  # whole numbers give equal IoUs, boxes that occur twice, and IoUs on the threshold
        center, size = center.round(), size.round()
    boxes = torch.cat([center - size / 2, center + size / 2], 1)
    scores = torch.rand(count, generator=generator)
    return boxes, (scores * 20).round() / 20 if grid else scores


def hills(center, width):
    return torch.sigmoid(3 * torch.sin(center[:, 0] / 50) + 2 * torch.cos(center[:, 1] / 40) + width / 100)


def slope(center, width):
    return center[:, 0] + 0.37 * center[:, 1] - width / 200


def dense_anchors(surface, best=1000):
    """The best anchors of one pyramid level whose scores vary smoothly: long chains of suppression.

    Returns boxes [best, 4] in descending order of score.
    """
    generator = AnchorGenerator(((32,),), ((0.5, 1.0, 2.0),))
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    boxes = generator.grid_anchors([[40, 60]], [[torch.tensor(4)] * 2])[0]
    scores = surface((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0])
    return boxes[scores.argsort(descending=True, stable=True)[:best]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 150),
    threshold=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7, 0.9]),
    grid=st.booleans(),
)
def test_equals_torchvision_on_random_boxes_and_ties(seed, count, threshold, grid):
    boxes, scores = random_boxes(seed, count, grid)
    assert torch.equal(kept(boxes, scores, threshold), nms(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_equals_torchvision_on_dense_anchors_with_smooth_scores(threshold):
    boxes = dense_anchors(hills)
    ranks = -torch.arange(float(len(boxes)))
    assert torch.equal(kept(boxes, ranks, threshold), nms(boxes, ranks, threshold))
    assert unconverged(boxes, threshold) == 0
    assert unconverged(boxes, threshold, iterations=16) > 0, "the case is to be a hard one"
    assert not torch.equal(kept(boxes, ranks, threshold, iterations=4), nms(boxes, ranks, threshold))


def test_scores_on_one_slope_need_more_than_the_default_and_are_noticed():
    boxes = dense_anchors(slope)
    ranks = -torch.arange(float(len(boxes)))
    assert unconverged(boxes, 0.5) > 0
    assert unconverged(boxes, 0.5, iterations=64) == 0
    assert torch.equal(kept(boxes, ranks, 0.5, iterations=64), nms(boxes, ranks, 0.5))


def test_one_more_iteration_shows_whether_nms_converged():
    # A chain: box i suppresses box i + 1 alone, so each iteration decides one more link.
    left = torch.arange(30.0)
    boxes = torch.stack([left, torch.zeros(30), left + 2.5, torch.ones(30)], 1)
    scores = torch.linspace(1, 0.5, 30)
    assert unconverged(boxes, 0.4, iterations=8) > 0
    assert unconverged(boxes, 0.4, iterations=NMS_ITERATIONS) == 0
    assert kept(boxes, scores, 0.4).tolist() == nms(boxes, scores, 0.4).tolist() == list(range(0, 30, 2))


def test_batch_labels_and_validity():
    many = [random_boxes(seed, 40, grid=True) for seed in range(6)]
    order = [s.argsort(descending=True, stable=True) for _, s in many]
    boxes = torch.stack([b[o] for (b, _), o in zip(many, order, strict=True)]).reshape(2, 3, 40, 4)
    labels = torch.randint(0, 3, (2, 3, 40), generator=torch.Generator().manual_seed(1))
    valid = torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(2)) > 0.3
    keep = fixed_point_nms(boxes, 0.5, labels, valid)
    ranks = -torch.arange(40.0)
    for i in range(2):
        for j in range(3):
            expected = torch.zeros(40, dtype=torch.bool)
            for label in range(3):
                rows = torch.nonzero((labels[i, j] == label) & valid[i, j]).squeeze(1)
                expected[rows[nms(boxes[i, j, rows], ranks[rows], 0.5)]] = True
            assert torch.equal(keep[i, j], expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("boxes", [dense_anchors(hills), torch.tensor([[0.0, 0, 10, 10]]).repeat(3840, 1)])
def test_a_matrix_of_16_bits_keeps_the_same_boxes(boxes, dtype):
    """Also where a box has more suppressors than the type can count: 3839 identical ones."""
    expected = fixed_point_nms(boxes, 0.5, iterations=4)
    assert torch.equal(fixed_point_nms(boxes, 0.5, iterations=4, dtype=dtype), expected)
    assert suppression_matrix(boxes[:5], 0.5, dtype=dtype).dtype == dtype


def test_boxes_without_area_and_not_a_number_suppress_nothing():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [float("nan")] * 4, [0, 0, 10, 10], [0, 0, 10, 10]])
    assert fixed_point_nms(boxes, 0.5).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
def test_a_float32_threshold_compares_like_torchvisions_float64(threshold):
    below = np.float32(_float32_below(threshold))
    assert float(below) <= threshold < float(np.nextafter(below, np.float32(1)))


def test_matrix_points_from_the_better_box_to_the_worse():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    assert suppression_matrix(boxes, 0.5).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_convergence_is_watched_in_every_stage_of_a_network():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = FixedPointNms(0.4, iterations=2), FixedPointNms(0.4)

        def forward(self, boxes):
            return self.first(boxes), self.second(boxes, None, boxes[..., 0] >= 0)

    left = torch.arange(12.0)
    boxes = torch.stack([left, torch.zeros(12), left + 2.5, torch.ones(12)], 1)
    network = Two()
    with watch_convergence(network) as seen:
        network(boxes)
    assert seen.calls == 2
    assert seen.unconverged > 0
    with watch_convergence(network.second) as seen:
        network(boxes)
    assert (seen.calls, seen.unconverged) == (1, 0)
