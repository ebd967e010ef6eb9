# SPDX-License-Identifier: Apache-2.0
"""Third-party ONNX files and options that are rejected."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.errors import (
    ArtifactError,
    ExportError,
    UsageError,
)
from imp_trt.export.options import EngineOptions
from imp_trt.export.verification.gates import Gate
from tests.support import foreign
from tests.support.foreign import export


def typed(kind: int) -> ModelProto:
    """The plain network with its first weights in another type, cast to float32."""
    model = foreign.plain()
    weights = next(i for i in model.graph.initializer if i.name == "w0")
    low = helper.make_tensor("low", kind, weights.dims, numpy_helper.to_array(weights).ravel().tolist())
    model.graph.initializer.append(low)
    model.graph.initializer.remove(weights)
    model.graph.node.insert(0, helper.make_node("Cast", ["low"], ["w0"], to=TensorProto.FLOAT))
    return model


def quantized() -> ModelProto:
    model = foreign.plain()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.1, np.float32), "scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
        ]
    )
    nodes = list(model.graph.node)
    nodes[2].input[0] = "dq"
    del model.graph.node[:]
    quantize = helper.make_node("QuantizeLinear", ["normalized", "scale", "zero"], ["q"])
    dequantize = helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"])
    model.graph.node.extend([*nodes[:2], quantize, dequantize, *nodes[2:]])
    return model


def double_output() -> ModelProto:
    model = foreign.plain()
    model.graph.node.append(helper.make_node("Cast", ["pooled"], ["double"], to=TensorProto.DOUBLE))
    model.graph.output.append(helper.make_tensor_value_info("double", TensorProto.DOUBLE, [1, 4, 1, 1]))
    return model


def positions() -> ModelProto:
    model = foreign.plain()
    model.graph.node.append(helper.make_node("NonZero", ["classes"], ["where"]))
    model.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, [3, "n"]))
    return model


def branching() -> ModelProto:
    model = foreign.plain()
    then = helper.make_graph(
        [helper.make_node("Identity", ["pooled"], ["then"])],
        "then",
        [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "flag"))
    model.graph.node.append(helper.make_node("If", ["flag"], ["chosen"], then_branch=then, else_branch=then))
    model.graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [1, 4, 1, 1]))
    return model


def unknown_operator() -> ModelProto:
    """Of another runtime's optimizer; also where ONNX Runtime would run it."""
    model = foreign.plain()
    gate = next(n for n in model.graph.node if n.name == "gate")
    gate.op_type, gate.domain = "QuickGelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def standard_unknown() -> ModelProto:
    model = foreign.plain()
    next(n for n in model.graph.node if n.name == "gate").op_type = "EfficientNMS_TRT"
    return model


def without_body() -> ModelProto:
    model = ModelProto()
    model.CopyFrom(foreign.projecting())
    del model.functions[:]
    return model


def unknown_size() -> ModelProto:
    """A size that no rule of the bounds follows: from the determinant of a constant."""
    model = foreign.plain()
    square = np.eye(2, dtype=np.float32)[None] * np.float32(2)
    model.graph.initializer.append(numpy_helper.from_array(square, "square"))
    nodes = [
        helper.make_node("Det", ["square"], ["det"]),
        helper.make_node("Cast", ["det"], ["side"], to=TensorProto.INT64),
        helper.make_node("ConstantOfShape", ["side"], ["filled"]),
    ]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("filled", TensorProto.FLOAT, [4]))
    return model


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: typed(TensorProto.FLOAT16), ArtifactError, r"'low' in FLOAT16.*model\.float\(\)"),
        (lambda: typed(TensorProto.BFLOAT16), ArtifactError, "'low' in BFLOAT16"),
        (quantized, ArtifactError, "a quantized network, node QuantizeLinear"),
        (double_output, ArtifactError, r"'double'.*got float64"),
        (positions, ExportError, "NonZero.*without its last steps"),
        (branching, ArtifactError, "without control flow"),
        (unknown_operator, ArtifactError, r"'QuickGelu' of node 'gate'.*com\.microsoft"),
        (standard_unknown, ArtifactError, "'EfficientNMS_TRT'.*no such operator in ONNX.*behind the engine"),
        (without_body, ArtifactError, "'InstanceMaskProjection'.*onnx_with_operators"),
        (unknown_size, ArtifactError, "ConstantOfShape.*dynamo=True.*ORT_ENABLE_BASIC"),
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_files_that_are_rejected(
    tmp_path: Path, make: Callable[[], ModelProto], kind: type[Exception], message: str, precision: str
) -> None:
    path = foreign.save(tmp_path, make())
    with pytest.raises(kind, match=message) as caught:
        export(path, tmp_path / "out", precision=precision)
    assert "yours.onnx" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_are_incomplete(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing at this path"):
        export(tmp_path / "none.onnx", tmp_path / "out")
    (tmp_path / "text.onnx").write_text("<html>")
    with pytest.raises(ArtifactError, match=r"ONNX"):
        export(tmp_path / "text.onnx", tmp_path / "out")
    data = foreign.save(tmp_path, foreign.plain()).read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(ArtifactError, match=r"ONNX"):
        export(tmp_path / "half.onnx", tmp_path / "out")
    onnx.save_model(
        foreign.plain(), tmp_path / "split.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    with pytest.raises(ArtifactError, match=r"weights in other files.*one_file\.onnx"):
        export(tmp_path / "split.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["split", "two words", "it's", 'a "b" $HOME `c`', "\u00fc"])
def test_the_command_for_weights_in_other_files_works(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{name}.onnx"
    onnx.save_model(foreign.plain(), path, save_as_external_data=True, location="w", size_threshold=0)
    with pytest.raises(ArtifactError) as caught:
        export(path, tmp_path / "out")
    program, flag, code = shlex.split(str(caught.value.fix))
    assert (program, flag) == ("python3", "-c")
    monkeypatch.chdir(tmp_path)
    exec(code)  # what the error says
    assert export(Path("one_file.onnx"), tmp_path / "out").path.exists()


def test_our_own_file_without_its_manifest(tmp_path: Path) -> None:
    """What its outputs mean is in the manifest alone."""
    model = foreign.plain()
    model.producer_name = "imp_trt"
    model.graph.input[0].name = model.graph.node[0].input[0] = "frame"
    path = foreign.save(tmp_path, model)
    with pytest.raises(ArtifactError, match=r"yours\.onnx\.json.*copy it next to"):
        export(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8", "calibrated": True}, "fp32 or fp16, got int8"),
        ({"precision": "bf16", "target": "tensorrt-rtx"}, "fp32 or fp16, got bf16"),
        ({"batch": 2}, "--batch.*--shape"),
        ({"function_free": True}, "--function-free"),
        (
            {"parts": True, "nms_iterations": 64, "gate": Gate(0.9, None, 1.0)},
            "--nms-iterations, --parts, --gate",
        ),
        ({"engine": EngineOptions(keep_onnx=True), "target": "tensorrt-rtx"}, "--keep-onnx"),
        ({"target": "jetson-orin"}, "on the device itself"),
    ],
)
def test_options_that_are_rejected(tmp_path: Path, options: Any, message: str) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    with pytest.raises(UsageError, match=message):
        export(path, tmp_path / "out", **options)


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    path = foreign.save(tmp_path, foreign.plain(), "yours.fp32.onnx")
    before = path.read_bytes()
    for output in (tmp_path, path):
        with pytest.raises(UsageError, match="another file than the input"):
            export(path, output)
    assert path.read_bytes() == before
    assert not manifest_path(path).exists()
