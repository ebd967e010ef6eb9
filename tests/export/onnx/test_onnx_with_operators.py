# SPDX-License-Identifier: Apache-2.0
"""A third-party network that calls the operator, as one ONNX file."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from imp_trt.errors import ExportError
from imp_trt.export import onnx_with_operators
from imp_trt.export.onnx.from_model import operators_of
from imp_trt.ops import instance_mask_projection

pytestmark = pytest.mark.slow


class Foreign(nn.Module):
    """A convolution over an image and the canvases of one or two sampling rules."""

    def __init__(self, *rules):
        super().__init__()
        self.rules = rules
        self.layer = nn.Conv2d(1 + 2 * len(rules), 3, 3, padding=1)

    def forward(self, image, boxes, scores, labels, masks):
        canvases = [
            instance_mask_projection(boxes, scores, labels, masks, 2, (16, 24), scale, rule)
            for scale, rule in zip((0.25, 0.3), self.rules, strict=False)
        ]
        return self.layer(torch.cat([image, *canvases], 1))


def detections():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(1, 5, 2, generator=generator) * 40
    boxes = torch.cat([low, low + 5 + torch.rand(1, 5, 2, generator=generator) * 40], -1)
    scores = torch.rand(1, 5, generator=generator)
    return boxes, scores, torch.tensor([[0, 1, 0, 1, 1]]), torch.rand(1, 5, 14, 14, generator=generator)


NAMES = ["image", "boxes", "scores", "labels", "masks"]


@pytest.mark.parametrize("rules", [("bilinear",), pytest.param(("rect", "rect"), marks=pytest.mark.slow)])
def test_the_file_does_what_the_network_does(rules):
    torch.manual_seed(0)
    network = Foreign(*rules)
    inputs = (torch.rand(1, 1, 16, 24), *detections())
    model = onnx_with_operators(network, inputs, NAMES, ["out"])
    onnx.checker.check_model(model, full_check=True)
    nodes = [node.op_type for node in model.graph.node if node.domain == "imp_trt"]
    assert nodes == ["InstanceMaskProjection"] * len(rules)
    assert [f.name for f in model.functions] == ["InstanceMaskProjection"]
    assert operators_of(model) == {"InstanceMaskProjection": {"version": "1", "sampling": rules[0]}}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(NAMES, inputs, strict=True)})
    with torch.no_grad():
        expected = network(*inputs)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-5)


def test_a_network_without_operators_has_no_functions():
    model = onnx_with_operators(nn.Conv2d(1, 2, 3), (torch.zeros(1, 1, 8, 8),), ["x"], ["y"])
    assert not model.functions
    assert [i.name for i in model.graph.input] == ["x"]


def test_two_sampling_rules_do_not_fit_in_one_file():
    inputs = (torch.rand(1, 1, 16, 24), *detections())
    with pytest.raises(ExportError, match="one sampling rule"):
        onnx_with_operators(Foreign("bilinear", "rect"), inputs, NAMES, ["out"])


def test_what_pytorch_cannot_export_is_reported_in_a_line():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="PyTorch cannot export") as caught:
        onnx_with_operators(Branches(), (torch.ones(4),), ["x"], ["y"])
    assert len(str(caught.value)) < 1500
