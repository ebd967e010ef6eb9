# SPDX-License-Identifier: Apache-2.0
"""One network in every precision: types at the borders and inside, Q/DQ, and results in ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from imp_trt.artifacts.manifest import QUANTIZED
from imp_trt.errors import UsageError
from imp_trt.export.onnx.functions import without_functions
from imp_trt.export.onnx.graph_checks import graph_problems
from imp_trt.export.onnx.type_checks import residual_additions, types_of
from imp_trt.export.quantization import lowering
from imp_trt.export.quantization.calibration import CalibrationFrames
from imp_trt.export.quantization.lowering import LAYER_TYPES, RUNS_ON_ONNXRUNTIME, lower
from imp_trt.export.quantization.quantize import DETECTING, FIRST, LOGITS, layer_of
from imp_trt.export.verification.gates import Agreement, FrameDetections
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.typed_models import ITERATIONS, typed, write_calibration
from tests.support.variants import variants

FLOAT, FLOAT16, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
LOW = {"fp32": FLOAT, "fp16": FLOAT16, "bf16": BFLOAT16, "int8": FLOAT16, "fp8": FLOAT16}
QUANTIZED_TYPE = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


class Shared(dict):
    """Precision -> the export that all tests share, made when it is first asked for."""

    def __missing__(self, precision):
        return typed(precision)


# The export in bfloat16 takes some seconds of its own.
TYPES = variants(LAYER_TYPES, [p for p in LAYER_TYPES if p != "bf16"])


@pytest.fixture
def lowered():
    return Shared()


def nodes(model, *kinds):
    return [node for node in model.graph.node if node.op_type in kinds]


def run(model, frames):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = [session.run(None, {"frame": frame[None].numpy()}) for frame in frames]
    return dict(zip(OUTPUT_NAMES, map(np.concatenate, zip(*results, strict=True)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("precision", TYPES)
def test_the_borders_are_those_of_the_contract(lowered, precision):
    model = lowered[precision].model
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert types == {
        "frame": TensorProto.UINT8,
        "semantic": TensorProto.UINT8,
        "boxes": FLOAT,
        "scores": FLOAT,
        "labels": TensorProto.INT32,
        "masks": FLOAT,
        "num_detections": TensorProto.INT32,
    }
    assert graph_problems(model) == []
    opset = next(o.version for o in model.opset_import if o.domain == "")
    assert opset == (19 if precision in QUANTIZED else 18)
    assert {f.name for f in model.functions} == {"InstanceMaskProjection", "ImpMultilevelRoiAlign"}


@pytest.mark.parametrize("precision", TYPES)
def test_layers_are_in_the_low_type_and_boxes_are_not(lowered, precision):
    model = lowered[precision].model
    types = types_of(model)
    low = LOW[precision]
    for node in nodes(model, "Conv", "Gemm"):
        assert {types[name] for name in (*node.input, *node.output)} == {low}, node.name
    projection = nodes(model, "InstanceMaskProjection")[0]
    assert [types[name] for name in projection.input] == [FLOAT, FLOAT, TensorProto.INT64, low]
    assert types[projection.output[0]] == low
    for node in nodes(model, "ImpMultilevelRoiAlign"):
        assert [types[name] for name in node.input] == [low] * 4 + [FLOAT]
    for node in nodes(model, "TopK", "Softmax", "Sigmoid", "Exp", "Greater", "Min", "Sub", "Div"):
        assert types[node.input[0]] not in (FLOAT16, BFLOAT16), node.name
    images = nodes(model, "Transpose")[0]
    assert types[images.output[0]] == FLOAT, "pixels are normalized in float32"


def test_no_low_type_on_the_way_from_the_codes_to_the_boxes(lowered):
    """From every box output back to the layers: all float32 down to the casts behind the predictors."""
    model = lowered["fp16"].model
    types, makers = types_of(model), {n: node for node in model.graph.node for n in node.output}
    for name in ("boxes", "scores"):
        waiting, seen = [name], set()
        while waiting:
            node = makers.get(waiting.pop())
            if node is None or node.name in seen or node.op_type in ("Conv", "Gemm"):
                continue
            seen.add(node.name)
            if node.op_type == "Cast" and types[node.input[0]] == FLOAT16:
                assert types[node.output[0]] == FLOAT
                continue  # a layer's output
            assert not any(types.get(o) in (FLOAT16, BFLOAT16) for o in node.output), node.name
            waiting += node.input
        assert len(seen) > 50


@pytest.mark.parametrize(
    ("precision", "labels", "f1"), [("fp16", 0.995, 0.9), ("int8", 0.97, 0.4), ("fp8", 0.95, 0.3)]
)
def test_onnxruntime_runs_it_and_agrees_with_float32(lowered, precision, labels, f1):
    # Random weights decide by small margins; the gates hold for trained ones.
    frames = smooth_frames(4)
    exact, low = run(lowered["fp32"].model, frames), run(lowered[precision].model, frames)
    agreement = Agreement()
    for i in range(len(frames)):
        found = tuple(FrameDetections(o["boxes"][i], o["labels"][i], o["scores"][i]) for o in (exact, low))
        agreement.add((exact["semantic"][i], low["semantic"][i]), found)
    assert agreement.reference >= 4
    assert agreement.label_agreement > labels
    assert agreement.instance_f1 > f1
    assert precision in RUNS_ON_ONNXRUNTIME


@pytest.mark.slow
def test_the_float16_file_does_what_the_float16_module_does(lowered):
    frames = smooth_frames(2)
    exported = run(lowered["fp16"].model, frames)
    eager = dict(zip(OUTPUT_NAMES, (t.numpy() for t in lowered["fp16"].module(frames)), strict=True))
    assert (exported["semantic"] == eager["semantic"]).mean() > 0.998
    strong = eager["scores"] > 0.3
    assert strong.any()
    np.testing.assert_allclose(exported["scores"][strong], eager["scores"][strong], atol=0.02)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_pairs_are_symmetric_and_only_around_layers(lowered, precision):
    model = lowered[precision].model
    constants = {i.name: i for i in model.graph.initializer}
    types, readers = types_of(model), Counter(n for node in model.graph.node for n in node.input)
    makers = {n: node for node in model.graph.node for n in node.output}
    layers = {layer_of(n) for n in nodes(model, "Conv", "Gemm") if n.input[1] in makers}
    residual = set(residual_additions(model))
    for node in nodes(model, "QuantizeLinear", "DequantizeLinear"):
        zero, scale = constants[node.input[2]], constants[node.input[1]]
        assert zero.data_type == QUANTIZED_TYPE[precision]
        assert not any(zero.raw_data)
        assert scale.data_type == FLOAT16
        weight = constants.get(node.input[0])
        assert list(scale.dims) == ([] if weight is None else [weight.dims[0]])
        assert readers[node.output[0]] >= 1
    for node in model.graph.node:
        dequantized = [
            i for i, n in enumerate(node.input) if n in makers and makers[n].op_type == "DequantizeLinear"
        ]
        if node.name in residual:
            assert dequantized in ([], [1]), node.name
        elif node.op_type in ("Conv", "Gemm"):
            assert dequantized in ([], [0, 1]), node.name
            assert {types[bias] for bias in node.input[2:]} <= {FLOAT16}, "biases are not quantized"
        else:
            assert dequantized == [], node.name
    assert layers == {None}, "the names of weights are gone with the float weights"
    assert len({n.input[0] for n in nodes(model, "QuantizeLinear")}) == len(nodes(model, "QuantizeLinear"))


def test_int8_shortcuts_are_quantized_where_their_convolution_is(lowered):
    model = lowered["int8"].model
    makers = {n: node for node in model.graph.node for n in node.output}
    sums = {node.name: node for node in nodes(model, "Add")}
    residual = [sums[name] for name in residual_additions(model)]
    assert len(residual) == 8, "two blocks in each of four stages"
    for addition in residual:
        layer, shortcut = (makers[name] for name in addition.input)
        quantized = makers[layer.input[0]].op_type == "DequantizeLinear"
        assert (shortcut.op_type == "DequantizeLinear") == quantized, addition.name
    shortcuts = [makers[makers[a.input[1]].input[0]] for a in residual[2:]]
    sources = [makers[node.input[0]].op_type for node in shortcuts]
    assert sources == ["Conv", "Relu"] * 3, "stage 0 stays in float; later stages change the shape first"
    identity = [node for node in shortcuts if makers[node.input[0]].op_type == "Relu"]
    readers = [n.op_type for n in model.graph.node if f"{identity[0].input[0]}.dequantized" in n.input]
    assert sorted(readers) == ["Add", "Conv"], "the block's first layer and the sum share a pair"


def test_fp8_shortcuts_stay_in_float(lowered):
    model = lowered["fp8"].model
    pairs = {n.output[0] for n in nodes(model, "DequantizeLinear")}
    assert not any(name in pairs for node in nodes(model, "Add") for name in node.input)


def test_the_flags_of_nms_have_the_type_of_the_layers(lowered):
    for precision, low in (("fp32", FLOAT), ("fp16", FLOAT16), ("int8", FLOAT16)):
        model = lowered[precision].model
        types, makers = types_of(model), {n: node for node in model.graph.node for n in node.output}
        products = [n for n in nodes(model, "MatMul") if n.input[1] in makers]
        square = [n for n in products if makers[n.input[1]].op_type == "Neg"]
        assert len(square) == 2 * ITERATIONS
        assert {types[name] for n in square for name in (*n.input, *n.output)} == {low}, precision


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_layers_that_decide_stay_in_float(lowered, precision):
    model = lowered[precision].model
    kept = {layer_of(n) for n in nodes(model, "Conv", "Gemm")} - {None}
    listed = (*FIRST, *DETECTING[precision])
    every = {layer_of(n) for n in nodes(lowered["fp16"].model, "Conv", "Gemm")}
    expected = {name for name in every if name.startswith(listed) or name.rpartition(".")[2] in LOGITS}
    if precision == "fp8":
        expected.add("network.semantic.fuse.0.0")  # 64 features and 2 planes: no multiple of 16 channels
    assert kept == expected
    assert len(every - kept) >= 20


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.5 / 127), ("fp8", 2**-4)])
def test_weights_are_quantized_per_output_channel(lowered, precision, error):
    model = lowered[precision].model
    constants = {i.name: i for i in model.graph.initializer}
    original = {i.name: i for i in lowered["fp16"].model.graph.initializer}
    checked = 0
    for node in nodes(model, "DequantizeLinear"):
        if node.input[0] not in constants:
            continue
        name = node.input[0].removesuffix(".quantized")
        weight = numpy_helper.to_array(original[name]).astype(np.float32)
        scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
        stored = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        shape = (-1,) + (1,) * (weight.ndim - 1)
        difference = np.abs(stored * scale.reshape(shape) - weight) / largest.reshape(shape)
        assert difference.max() <= 1.02 * error, name
        checked += 1
    assert checked >= 20


@pytest.mark.slow
def test_a_network_without_detector_keeps_only_its_ends(calibration_folder):
    network = detecting_network(small_config("semantic-fpn"))
    model = lower(network, "int8", calibration=CalibrationFrames(calibration_folder)).model
    kept = {layer_of(n) for n in nodes(model, "Conv", "Gemm")} - {None}
    assert kept == {
        "network.backbone.body.stem.0.0",
        "network.backbone.body.stem.1.0",
        "network.semantic.classify",
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", variants(QUANTIZED, ["fp8"]))
def test_the_same_frames_give_the_same_bytes(network, lowered, tmp_path, monkeypatch, precision):
    """Against the shared form, which was quantized step by step."""
    if precision == "fp8":  # the float16 graph before it is the one of int8
        monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: lowered["fp16"].model)
    write_calibration(tmp_path)
    again = lower(
        network, precision, nms_iterations=ITERATIONS, calibration=CalibrationFrames(tmp_path)
    ).model
    shared = lowered[precision].model
    assert again.SerializeToString(deterministic=True) == shared.SerializeToString(deterministic=True)


def test_calibration_is_required_and_progress_is_reported(network):
    steps = []
    with pytest.raises(UsageError, match=r"precision int8.*calibration frames.*--calib"):
        lower(network, "int8", progress=lambda *step: steps.append(step))
    assert steps == [], "rejected before any work"
    with pytest.raises(UsageError, match="one of fp32, fp16"):
        lower(network, "fp64")


def test_functions_can_be_left_out(lowered):
    model = lowered["fp16"].model
    bare = without_functions(model)
    assert len(bare.functions) == 0
    assert len(model.functions) == 2, "the given model is not changed"
    assert bare.graph == model.graph
    assert all(n.name for n in nodes(bare, "InstanceMaskProjection"))
    onnx.checker.check_model(bare)
