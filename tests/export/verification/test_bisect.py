# SPDX-License-Identifier: Apache-2.0
"""The first node whose values are not PyTorch's is found."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from imp_trt.cli.export import main
from imp_trt.errors import UsageError
from imp_trt.export import plan
from imp_trt.export.quantization import lowering
from imp_trt.export.verification import bisect as module
from imp_trt.export.verification.bisect import Bisection, NodeError, bisect, relative_error
from tests.support.networks import smooth_frames
from tests.support.typed_models import typed
from tests.support.variants import variants

SEMANTIC = "network.semantic.fuse.1.0"


@pytest.fixture(scope="module")
def program():
    return module.pytorch_program(typed("fp32").module)


@pytest.fixture
def quick(program, monkeypatch):
    monkeypatch.setattr(module, "pytorch_program", lambda _: program)


def spoiled(model, layer, factor):
    """A copy with the weight of one layer multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (weight,) = [i for i in copy.graph.initializer if i.name == f"{layer}.weight"]
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), weight.name))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("precision", variants(["fp32", "fp16", "int8", "fp8"], ["fp16", "int8"]))
def test_rounding_is_no_difference(precision, quick):
    frame = smooth_frames(1).numpy()[0]
    found = bisect(typed("fp32").module, typed(precision).model, precision, frame)
    assert found.first is None, str(found.first)
    assert len(found.nodes) > 300
    assert any(node.layer == SEMANTIC and node.error > 0 for node in found.nodes)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("layer", [SEMANTIC, "network.backbone.body.stages.1.0.conv2"])
def test_a_wrong_weight_is_found_at_its_layer(layer, precision, quick):
    model = spoiled(typed(precision).model, layer, 1.1)
    frame = smooth_frames(1).numpy()[0]
    found = bisect(typed("fp32").module, model, precision, frame)
    assert found.first is not None
    assert found.first.layer == layer


def test_bfloat16_does_not_run():
    with pytest.raises(UsageError, match="bf16"):
        bisect(None, None, "bf16", None)


def test_errors_are_relative():
    a = np.array([3.0, 4.0], np.float32)
    assert relative_error(a, a * np.float32(1.5)) == pytest.approx(0.5)
    assert relative_error(a, np.array([3.0, np.nan], np.float32)) == np.inf
    assert relative_error(np.array([1.0, np.inf]), np.array([1.0, np.inf])) == 0
    assert relative_error(np.array([1, 2]), np.array([1, 3])) == 0.5
    assert relative_error(np.zeros(2), np.ones(2)) == 1
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_what_inputs_explain_is_not_the_first():
    nodes = (
        NodeError("a", "Conv", "x", "layer", 0.001),
        NodeError("b", "TopK", "i", "", 0.7, discrete=True),
        NodeError("c", "Gather", "y", "", 0.9, explained=True),
        NodeError("d", "Conv", "z", "", 0.5),
    )
    found = Bisection(nodes, 0.01, 5)
    assert (found.first, found.choice) == (nodes[3], nodes[1])
    assert Bisection(nodes[:3], 0.01, 5).first is None


@pytest.mark.slow
def test_the_command(quick, weights, tmp_path, capsys, monkeypatch):
    frames = plan.VerificationFrames
    monkeypatch.setattr(plan, "VerificationFrames", lambda folder, count: frames(folder, 2))
    arguments = [
        "--bisect",
        "--target",
        "onnxruntime",
        "--weights",
        str(weights),
        "-o",
        str(tmp_path / "out"),
    ]
    model = typed("fp32").model
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: model)
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("SAME imp-export: ")
    wrong = spoiled(model, SEMANTIC, 1.1)
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: wrong)
    assert main(arguments) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("DIFFERS imp-export: node_conv2d_")
    assert f"layer {SEMANTIC}" in last
    assert main([*arguments, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["first"].startswith("node_conv2d_")
    assert not (tmp_path / "out").exists(), "nothing is written"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch", "2"], "--batch 1"),
        (["--precisions", "fp32", "fp16"], "one precision"),
        (["--parts", "--keep-onnx"], "--bisect takes no --parts, --keep-onnx"),
    ],
)
def test_mistakes(arguments, text, weights, tmp_path, capsys):
    options = ["--bisect", "--target", "onnxruntime", "--weights", str(weights), "-o", str(tmp_path)]
    assert main([*options, *arguments]) == 2
    assert text in capsys.readouterr().err
