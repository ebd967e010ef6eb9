# SPDX-License-Identifier: Apache-2.0
"""Operands of every type that the PyTorch operators take, in files for ONNX Runtime."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from imp_trt.export import onnx_with_operators
from imp_trt.ops import instance_mask_projection, pyramid_roi_align
from tests.support.variants import variants

pytestmark = pytest.mark.slow

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
ROUNDING = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float64: 1e-6}

USUAL_FLOATS = variants(FLOATS, (torch.float16, torch.bfloat16))
"""Each is an export of about a second."""


def named(*types: torch.dtype) -> str:
    return ", ".join(str(t).removeprefix("torch.") for t in types)


class Canvases(nn.Module):
    """One canvas for each combination of types of boxes, scores and labels, of masks of one type."""

    def __init__(self, masks: torch.dtype, sampling: str) -> None:
        super().__init__()
        self.masks, self.sampling = masks, sampling
        self.types = [(*pair, torch.int64) for pair in product(FLOATS, FLOATS)]
        self.types += [(torch.float32, torch.float32, labels) for labels in INTEGERS]

    def forward(self, boxes, scores, labels, masks):
        options = (3, (12, 16), 0.25, self.sampling)
        canvases = [
            instance_mask_projection(boxes.to(a), scores.to(b), labels.to(c), masks.to(self.masks), *options)
            for a, b, c in self.types
        ]
        assert {canvas.dtype for canvas in canvases} == {self.masks}
        return torch.stack(canvases).float()


def detections() -> tuple[torch.Tensor, ...]:
    make = torch.Generator().manual_seed(1)
    low = torch.rand(2, 6, 2, generator=make) * 30
    boxes = torch.cat([low, low + 8 + 30 * torch.rand(2, 6, 2, generator=make)], -1)
    # Exact in every type: the result then does not depend on where a type is rounded.
    boxes, scores = boxes.bfloat16().float(), torch.rand(2, 6, generator=make).bfloat16().float()
    return boxes, scores, torch.randint(0, 4, (2, 6), generator=make), torch.rand(2, 6, 7, 7, generator=make)


def run(model: onnx.ModelProto, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return result


@pytest.mark.parametrize("sampling", variants(["rect", "bilinear"], ["rect"]))
@pytest.mark.parametrize("masks", USUAL_FLOATS, ids=named)
def test_mask_projection_with_every_combination(masks: torch.dtype, sampling: str) -> None:
    network = Canvases(masks, sampling)
    inputs = dict(zip(("boxes", "scores", "labels", "masks"), detections(), strict=True))
    model = onnx_with_operators(network, tuple(inputs.values()), list(inputs), ["canvases"])
    found = run(model, inputs)
    expected = network(*inputs.values()).numpy()
    assert expected.max() > 0.3
    for types, a, b in zip(network.types, found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=ROUNDING[masks], rtol=0, err_msg=named(*types))


@pytest.mark.parametrize("kind", variants([torch.float16, torch.float64], [torch.float16]), ids=named)
def test_inputs_of_the_file_keep_their_types(kind: torch.dtype) -> None:
    class Canvas(nn.Module):
        def forward(self, boxes, scores, labels, masks):
            return instance_mask_projection(boxes, scores, labels, masks, 3, (12, 16), 0.25)

    boxes, scores, labels, masks = detections()
    inputs = {"boxes": boxes.to(kind), "scores": scores.to(kind), "labels": labels, "masks": masks.to(kind)}
    model = onnx_with_operators(Canvas(), tuple(inputs.values()), list(inputs), ["canvas"])
    onnx.checker.check_model(model, full_check=True)
    found = run(model, inputs)
    assert found.dtype == inputs["masks"].numpy().dtype
    np.testing.assert_allclose(found, Canvas()(*inputs.values()).numpy(), atol=ROUNDING[kind], rtol=0)


def test_operands_that_fit_are_passed_as_they_are() -> None:
    class Both(nn.Module):
        def forward(self, boxes, scores, labels, masks, *levels):
            canvas = instance_mask_projection(boxes, scores, labels, masks, 3, (12, 16), 0.25)
            return canvas, pyramid_roi_align(*levels, boxes, 3)

    levels = [torch.rand(2, 3, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    names = ["boxes", "scores", "labels", "masks", "p2", "p3", "p4", "p5"]
    model = onnx_with_operators(Both(), (*detections(), *levels), names, ["canvas", "pooled"])
    assert [list(node.input) for node in model.graph.node] == [names[:4], [*names[4:], "boxes"]]


class Pooled(nn.Module):
    """Boxes of every type, and features of one type or of two."""

    def __init__(self, features: torch.dtype, others: torch.dtype) -> None:
        super().__init__()
        self.types = [features, others, features, features]

    def forward(self, p2, p3, p4, p5, boxes):
        levels = [p.to(kind) for p, kind in zip((p2, p3, p4, p5), self.types, strict=True)]
        return torch.stack([pyramid_roi_align(*levels, boxes.to(kind), 3) for kind in FLOATS]).float()


@pytest.mark.parametrize("features", USUAL_FLOATS, ids=named)
@pytest.mark.parametrize("mixed", variants([False, True], [True]), ids=["one type", "two types"])
def test_roi_align_with_every_combination(features: torch.dtype, mixed: bool) -> None:
    make = torch.Generator().manual_seed(2)
    levels = [torch.rand(2, 3, 64 // s, 96 // s, generator=make).bfloat16().float() for s in (4, 8, 16, 32)]
    low = torch.rand(2, 5, 2, generator=make) * 20
    boxes = torch.cat([low, low + 4 + 40 * torch.rand(2, 5, 2, generator=make)], -1).bfloat16().float()
    inputs = dict(zip(("p2", "p3", "p4", "p5", "boxes"), (*levels, boxes), strict=True))
    other = torch.float16 if features == torch.float32 else torch.float32
    network = Pooled(features, other if mixed else features)
    model = onnx_with_operators(network, tuple(inputs.values()), list(inputs), ["pooled"])
    found = run(model, inputs)
    expected = network(*inputs.values()).numpy()
    np.testing.assert_allclose(found, expected, atol=4 * ROUNDING[features], rtol=0)
