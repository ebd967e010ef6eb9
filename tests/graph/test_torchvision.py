# SPDX-License-Identifier: Apache-2.0
"""Projection behind torchvision's Mask R-CNN, as torch.onnx.export writes it."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from imp_trt.graph import add_projection
from imp_trt.ops import instance_mask_projection_numpy


def small_mask_rcnn() -> MaskRCNN:
    backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 8, 1), nn.ReLU())
    backbone.out_channels = 16
    network = MaskRCNN(
        backbone,
        num_classes=5,
        min_size=96,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((24, 48),), ((0.5, 1.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        rpn_post_nms_top_n_test=30,
        box_score_thresh=0.0,
        box_detections_per_img=10,
    ).eval()
    # Instead of pasting the masks; the image has the size of the network's input.
    network.transform.postprocess = lambda result, *sizes: result
    return network


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_canvas_and_class_map_of_its_detections() -> None:
    torch.manual_seed(0)
    network, image = small_mask_rcnn(), torch.rand(3, 96, 96)
    file = io.BytesIO()
    names = ["boxes", "labels", "scores", "masks"]
    torch.onnx.export(
        network, ([image],), file, opset_version=17, dynamo=False, input_names=["image"], output_names=names
    )
    changed = add_projection(
        onnx.load_from_string(file.getvalue()),
        **{name: name for name in names},
        things=range(1, 5),
        canvas_size=(24, 24),
        threshold=0.1,
    )
    session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([*names, "canvas", "class_map"], {"image": image.numpy()})
    boxes, labels, scores, masks, canvas, class_map = found
    with torch.no_grad():
        (result,) = network([image])
    assert len(boxes) == 10
    np.testing.assert_allclose(boxes, result["boxes"].numpy(), atol=1e-3)
    np.testing.assert_allclose(masks, result["masks"].numpy(), atol=1e-4)
    arrays = (boxes[None], scores[None], labels[None] - 1, masks[:, 0][None])
    expected = instance_mask_projection_numpy(*arrays, 4, (24, 24), 0.25)
    assert expected.max() > 0.1
    np.testing.assert_allclose(canvas, expected, atol=1e-6)
    np.testing.assert_array_equal(class_map, np.where(canvas.max(1) > 0.1, 1 + canvas.argmax(1), 0))
