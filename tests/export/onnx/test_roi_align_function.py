# SPDX-License-Identifier: Apache-2.0
"""The ONNX body of ImpMultilevelRoiAlign against the torch operator."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from imp_trt.errors import ExportError
from imp_trt.export.onnx import roi_align as multilevel_roi_align
from imp_trt.export.onnx.from_model import onnx_with_operators
from imp_trt.export.onnx.function_builder import PLUGIN_ATTRIBUTES
from imp_trt.export.onnx.graph_checks import graph_problems
from imp_trt.ops.roi_align.torch import pyramid_roi_align
from tests.support.roi_align import awkward_boxes, boxes_of_every_level, pyramid

NAMES = ("p2", "p3", "p4", "p5", "boxes")


def file_with(levels, boxes, calls, kind=TensorProto.FLOAT, aligned=()):
    """A model with one node per (output_size, sampling_ratio, canonical_level, canonical_size)."""
    inputs = [
        helper.make_tensor_value_info(n, kind, list(t.shape)) for n, t in zip(NAMES, levels, strict=False)
    ]
    inputs.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, list(boxes.shape)))
    nodes, outputs = [], []
    for i, call in enumerate(calls):
        attributes = dict(zip(multilevel_roi_align.ATTRIBUTES, call, strict=True))
        attributes |= {"aligned": 1} if i in aligned else {}
        nodes.append(
            helper.make_node(
                multilevel_roi_align.NAME,
                NAMES,
                [f"y{i}"],
                f"n{i}",
                domain="imp_trt",
                **attributes,
                **PLUGIN_ATTRIBUTES,
            )
        )
        shape = [boxes.shape[0] * boxes.shape[1], levels[0].shape[1], call[0], call[0]]
        outputs.append(helper.make_tensor_value_info(f"y{i}", kind, shape))
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("imp_trt", 1)],
        ir_version=10,
    )
    model.functions.append(multilevel_roi_align.function_for_model(model))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, levels, boxes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    opened = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return opened.run(None, {n: t.numpy() for n, t in zip(NAMES, (*levels, boxes), strict=True)})


CALLS = [(7, 2, 4, 224), (14, 2, 4, 112), (1, 1, 4, 64), (5, 3, 3, 224)]


@pytest.mark.parametrize("shape", [(2, 3, 96, 160), (1, 8, 64, 64), (3, 1, 75, 133)])
def test_one_body_serves_every_call(shape):
    levels = pyramid(*shape)
    boxes = boxes_of_every_level(shape[0], 20, *shape[2:])
    results = run(file_with(levels, boxes, CALLS), levels, boxes)
    for call, result in zip(CALLS, results, strict=True):
        np.testing.assert_allclose(result, pyramid_roi_align(*levels, boxes, *call).numpy(), atol=1e-4)


def test_awkward_boxes():
    levels, boxes = pyramid(batch=1), awkward_boxes()
    (result,) = run(file_with(levels, boxes, [(7, 2, 4, 224)]), levels, boxes)
    assert np.isfinite(result).all()
    np.testing.assert_allclose(result, pyramid_roi_align(*levels, boxes, 7).numpy(), atol=1e-4)


def test_aligned_boxes():
    levels = pyramid(batch=1)
    small = boxes_of_every_level(batch=1, count=8) * 0.02 + 5
    boxes = torch.cat([boxes_of_every_level(batch=1), small, awkward_boxes()], 1)
    calls = [(7, 2, 4, 224), (14, 2, 4, 224)]
    model = file_with(levels, boxes, calls, aligned=(0, 1))
    assert graph_problems(model) == []
    for call, result in zip(calls, run(model, levels, boxes), strict=True):
        expected = pyramid_roi_align(*levels, boxes, *call, aligned=True)
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-4)


ADAPTIVE = [(7, 0, 4, 224), (14, 0, 4, 112), (1, 0, 4, 64), (5, 0, 3, 224)]


@pytest.mark.slow
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 96, 160), (3, 1, 75, 133)])
def test_adaptive_sampling(shape, aligned):
    levels = pyramid(*shape)
    boxes = torch.cat(
        [
            boxes_of_every_level(shape[0], 20, *shape[2:]),
            awkward_boxes().expand(shape[0], -1, -1),
            torch.tensor([[2.0, 3, 130, 11], [60, 30, 20, 60], [8, 8, 8, 40]]).expand(shape[0], -1, -1),
        ],
        1,
    )
    model = file_with(levels, boxes, ADAPTIVE, aligned=range(4) if aligned else ())
    assert graph_problems(model) == []
    for call, result in zip(ADAPTIVE, run(model, levels, boxes), strict=True):
        expected = pyramid_roi_align(*levels, boxes, *call, aligned=aligned).numpy()
        np.testing.assert_allclose(result, expected, atol=1e-6)
    fixed = pyramid_roi_align(*levels, boxes, 7, 2, aligned=aligned).numpy()
    assert (
        np.abs(fixed - pyramid_roi_align(*levels, boxes, *ADAPTIVE[0], aligned=aligned).numpy()).max() > 0.1
    )


def test_adaptive_sampling_of_float16_features():
    levels, boxes = [p.half() for p in pyramid()], boxes_of_every_level()
    (result,) = run(file_with(levels, boxes, ADAPTIVE[:1], TensorProto.FLOAT16), levels, boxes)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, pyramid_roi_align(*levels, boxes, 7, 0).numpy(), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("aligned", [False, True])
def test_adaptive_sampling_in_openvino(aligned):
    """A box without extent has no samples: OpenVINO would divide by their number."""
    openvino = pytest.importorskip("openvino", reason="needs the package openvino")
    levels, boxes = pyramid(), boxes_of_every_level()
    boxes = torch.cat([boxes, torch.tensor([[8.0, 8, 8, 8], [8, 8, 8, 40]]).expand(2, -1, -1)], 1)
    model = file_with(levels, boxes, ADAPTIVE[:1], aligned=(0,) if aligned else ())
    core = openvino.Core()
    opened = core.read_model(onnx.inliner.inline_local_functions(model).SerializeToString(), b"")
    compiled = core.compile_model(opened, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled({n: t.numpy() for n, t in zip(NAMES, (*levels, boxes), strict=True)})[0]
    expected = pyramid_roi_align(*levels, boxes, 7, 0, aligned=aligned).numpy()
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_adaptive_and_fixed_sampling_in_one_file():
    with pytest.raises(ExportError, match="adaptive sampling in all calls or in none"):
        file_with(pyramid(), boxes_of_every_level(), [CALLS[0], ADAPTIVE[0]])


@pytest.mark.slow
def test_the_exported_operator_is_adaptive():
    class Pool(torch.nn.Module):
        def forward(self, p2, p3, p4, p5, boxes):
            return pyramid_roi_align(p2, p3, p4, p5, boxes, 7, 0, aligned=True)

    levels, boxes = pyramid(batch=1), boxes_of_every_level(batch=1)
    model = onnx_with_operators(Pool(), (*levels, boxes), NAMES, ["pooled"])
    assert graph_problems(model) == []
    (result,) = run(model, levels, boxes)
    np.testing.assert_allclose(result, Pool()(*levels, boxes).numpy(), atol=1e-6)


def test_aligned_and_other_boxes_in_one_file():
    with pytest.raises(ExportError, match="got both"):
        file_with(pyramid(), boxes_of_every_level(), CALLS, aligned=(1,))


def test_levels_of_one_cell_and_one_box():
    levels = [torch.full((1, 2, 1, 1), float(k)) for k in range(4)]
    boxes = torch.tensor([[[0.0, 0, 3, 3]]])
    (result,) = run(file_with(levels, boxes, [(2, 2, 4, 224)]), levels, boxes)
    np.testing.assert_allclose(result, pyramid_roi_align(*levels, boxes, 2).numpy(), atol=1e-6)


def test_float16_features_with_float32_boxes():
    levels, boxes = [p.half() for p in pyramid()], boxes_of_every_level()
    model = file_with(levels, boxes, [(7, 2, 4, 224)], TensorProto.FLOAT16)
    (result,) = run(model, levels, boxes)
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, pyramid_roi_align(*levels, boxes, 7).numpy(), atol=0.02)


def test_the_body_holds_to_the_rules_of_the_file():
    levels, boxes = pyramid(), boxes_of_every_level()
    assert graph_problems(file_with(levels, boxes, CALLS)) == []


def test_a_model_without_the_node_gets_no_function():
    assert multilevel_roi_align.function_for_model(onnx.ModelProto()) is None
