# SPDX-License-Identifier: Apache-2.0
"""Evaluation with an empty canvas, or with that of the ground truth."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch")

import torch

from imp_trt.errors import InvalidInput
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from research.ablation.cells import VARIANTS, Variant
from research.ablation.measure import measure
from tests.support.pictures import CAT, CLASSES, DOG, FLOOR, Pets, area, labeled

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (128, 192)


class Photos(Pets):
    """Two images of half and of twice the network's size, so that the ground truth has to be fitted."""

    def __init__(self):
        super().__init__(2)

    def __getitem__(self, index):
        height, width = ((64, 96), (256, 320))[index]
        semantic = np.full((height, width), FLOOR, np.uint8)
        numbers = np.zeros(semantic.shape, np.int32)
        cat = area(semantic.shape, height // 4, 0, 3 * height // 4, width // 2)
        dog = area(semantic.shape, 0, width // 2, height // 2, width)
        for number, (label, mask) in enumerate(((CAT, cat), (DOG, dog)), 1):
            semantic[mask], numbers[mask] = label, number
        return labeled(semantic, numbers)


def network(folder, name="mask-rcnn-imp"):
    torch.manual_seed(0)
    made = ImpNetwork(system(name, CLASSES, SIZE, "compact")).eval()
    return save_checkpoint(folder / f"{name}.safetensors", made, {})


def scored(model, variant):
    return measure(model, variant, Photos(), None, 1, "cpu")


def test_with_the_oracle_canvas_a_class_map_read_from_it_is_the_ground_truth(tmp_path):
    # The class map of mask-rcnn-imp is its canvas: there are no semantic weights to train.
    evaluation, canvas = scored(network(tmp_path), VARIANTS["oracle-canvas"])
    # A cell of the canvas is up to 8 pixels of the larger image, and bilinear.
    assert evaluation.semantic.thing_iou > 0.85
    # The network's own canvas was not used, so it has no scores.
    assert canvas is None


def test_with_an_empty_canvas_the_class_map_has_no_things(tmp_path):
    evaluation, canvas = scored(network(tmp_path), VARIANTS["empty-canvas"])
    assert evaluation.semantic.thing_iou == 0
    assert canvas is None


@pytest.mark.slow
def test_the_canvas_of_the_base_is_scored(tmp_path):
    _, canvas = scored(network(tmp_path, "panoptic-fpn-imp"), VARIANTS["base"])
    assert set(canvas["per_class"]) == {"cat", "dog"}


def test_an_image_without_things_has_an_empty_canvas(tmp_path):
    class Empty(Photos):
        def __getitem__(self, index):
            return labeled(np.full((64, 96), FLOOR, np.uint8))

    model = network(tmp_path)
    evaluation, _ = measure(model, VARIANTS["oracle-canvas"], Empty(), None, 1, "cpu")
    assert evaluation.images == 2


@pytest.mark.slow
def test_the_detections_stay_the_networks_own(tmp_path):
    model = network(tmp_path)
    evaluation, _ = scored(model, Variant("empty", canvas_override="empty"))
    plain, _ = scored(model, VARIANTS["base"])
    assert evaluation.instances.to_dict() == plain.instances.to_dict()


def test_a_network_without_a_canvas_is_rejected(tmp_path):
    with pytest.raises(InvalidInput, match="with IMP"):
        scored(network(tmp_path, "panoptic-fpn"), VARIANTS["oracle-canvas"])
