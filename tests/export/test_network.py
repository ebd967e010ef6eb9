# SPDX-License-Identifier: Apache-2.0
"""Third-party ONNX files: what becomes of them, what is verified, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from imp_trt import Engine
from imp_trt.artifacts.artifact import golden_path, manifest_path
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.plan_header import read_plan_header
from imp_trt.artifacts.reading import read_network
from imp_trt.cuda.platform import Platform, platform_name
from imp_trt.errors import (
    ArtifactError,
    BuildError,
    DependencyMissing,
    ExportError,
    ImpTrtError,
    UsageError,
    VerificationError,
)
from imp_trt.export import ExportOptions, export_network, network
from imp_trt.export.options import EngineOptions
from imp_trt.export.tensorrt.engine import Engine as BuiltEngine
from imp_trt.export.verification import arrays
from tests.support import engines, foreign
from tests.support.fake_tensorrt import CAPABILITY, VERSIONS, fake_gpu, plan
from tests.support.stub_packages import needs_rtx

ONNX = {"target": "onnxruntime"}


def export(path: Path, output: Path, shapes: Any = None, **options: Any) -> Any:
    return export_network(path, output, ExportOptions(**(ONNX | options)), shapes=shapes)


def images_of(path: Path, seed: int = 0) -> Any:
    """Inputs and the outputs of ONNX Runtime for a file."""
    import onnxruntime as ort

    inputs = foreign.images(seed)
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return inputs, dict(zip(names, session.run(names, inputs), strict=True))


# ---- ONNX artifacts ----


@pytest.mark.parametrize("make", [foreign.plain, foreign.projecting], ids=["plain", "projecting"])
@pytest.mark.parametrize(("precision", "largest"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_a_file_for_onnxruntime(
    tmp_path: Path, make: Callable[[], ModelProto], precision: str, largest: float
) -> None:
    path = foreign.save(tmp_path, make())
    before = path.read_bytes()
    seen: list[tuple[str, int, int]] = []
    report = export_network(
        path,
        tmp_path / "out",
        ExportOptions(precision=precision, target="onnxruntime"),  # type: ignore[arg-type]
        progress=lambda *step: seen.append(step),
    )
    assert report.path == tmp_path / "out" / f"yours.{precision}.onnx"
    assert path.read_bytes() == before
    assert sorted(p.name for p in report.path.parent.iterdir()) == [
        f"yours.{precision}.golden.npz",
        f"yours.{precision}.onnx",
        f"yours.{precision}.onnx.json",
    ]
    manifest = report.manifest
    assert isinstance(manifest, NetworkManifest)
    assert (manifest.kind, manifest.precision, manifest.target) == ("onnx", precision, "onnxruntime")
    assert [str(spec) for spec in manifest.inputs] == ["images: float32[1, 3, 16, 24]"]
    assert manifest.ops == ({} if make is foreign.plain else {"InstanceMaskProjection": 1})
    verified = manifest.verification
    assert (verified["verified_on"], verified["calls"]) == ("onnxruntime-cpu", 4)
    assert verified["source"] == "4 random inputs in [0, 1], seed 0"
    names = ["outputs", "outputs_rounded"][: 1 + (precision == "fp16")]
    assert [name for name in verified if name.startswith("outputs")] == names
    for outputs in (verified[name] for name in names):
        assert isinstance(outputs, dict)
        assert list(outputs) == [spec.name for spec in manifest.outputs]
        assert all(each["agreeing"] >= 0.998 for each in outputs.values())
    if precision == "fp16":
        assert verified["outputs"] != verified["outputs_rounded"]
    assert [step[0] for step in seen if step[0] == "verify"]
    half = [t.name for t in onnx.load(report.path).graph.initializer if t.data_type == TensorProto.FLOAT16]
    assert bool(half) == (precision == "fp16")
    with Engine(report.path) as engine:
        for seed in range(2):
            inputs, expected = images_of(path, seed)
            found = engine.run(inputs)
            for name, array in expected.items():
                assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
                if array.dtype.kind == "f":
                    assert np.abs(found[name] - array).max() <= largest * np.abs(array).max()


def test_a_float32_file_for_onnxruntime_is_copied_as_it_is(tmp_path: Path) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    report = export(path, tmp_path / "out" / "named.onnx")
    assert report.path.read_bytes() == path.read_bytes()
    assert report.path.name == "named.onnx"


def test_a_file_that_is_replaced_meanwhile(tmp_path: Path) -> None:
    """What was read first is exported and named in the manifest."""
    path = foreign.save(tmp_path, foreign.plain())
    before = path.read_bytes()

    def replace_it(*step: object) -> None:
        path.write_bytes(foreign.plain(classes=5).SerializeToString())

    options = ExportOptions(precision="fp32", target="onnxruntime")
    report = export_network(path, tmp_path / "out", options, progress=replace_it)
    assert path.read_bytes() != before
    assert report.path.read_bytes() == before
    assert report.manifest.source_sha256 == hashlib.sha256(before).hexdigest()


def test_a_large_call_is_written_without_golden_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "MAX_GOLDEN_BYTES", 100)
    report = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out")
    assert report.manifest.golden_sha256 == ""
    assert report.manifest.verification["verified_on"] == "onnxruntime-cpu"
    assert not golden_path(report.path).exists()
    with pytest.raises(ArtifactError, match=r"golden arrays to verify.*too large.*--no-verify"):
        export(report.path, tmp_path, target="tensorrt-rtx")


def test_unverified_only_on_request(tmp_path: Path) -> None:
    report = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", verify=False)
    assert report.manifest.verification == {"verified_on": None, "skipped": "by request (--no-verify)"}
    assert not golden_path(report.path).exists()


# ---- shapes ----


def test_open_shapes_are_fixed_by_the_caller(tmp_path: Path) -> None:
    path = foreign.save(tmp_path, foreign.plain(("B", 3, "H", "W")))
    with pytest.raises(UsageError, match=r"\[-1, 3, -1, -1\].*--shape images=1x3x1x1"):
        export(path, tmp_path / "out")
    report = export(path, tmp_path / "out", {"images": (2, 3, 32, 48)})
    assert [str(spec) for spec in report.manifest.outputs] == [
        "logits: float32[2, 4, 32, 48]",
        "classes: uint8[2, 32, 48]",
        "pooled: float32[2, 4, 1, 1]",
    ]
    with Engine(report.path) as engine:
        assert engine.run(foreign.images(sides=(2, 3, 32, 48)))["classes"].shape == (2, 32, 48)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"image": (1, 3, 16, 24)}, "inputs images, got image"),
        ({"images": (1, 3, 16, 25)}, r"a shape like \[-1, 3, -1, 24\]"),
        ({"images": (1, 3, 16)}, "a shape like"),
    ],
)
def test_shapes_that_do_not_fit(tmp_path: Path, shapes: Any, message: str) -> None:
    path = foreign.save(tmp_path, foreign.plain(("B", 3, "H", 24)))
    with pytest.raises(UsageError, match=message):
        export(path, tmp_path / "out", shapes)
    assert not (tmp_path / "out").exists()


def test_shapes_that_the_network_cannot_take(tmp_path: Path) -> None:
    """Two branches of which one is fixed to 8 x 12 cells."""
    model = foreign.plain(("B", 3, "H", "W"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 8, 8, 12), np.float32), "fixed"))
    next(n for n in model.graph.node if n.name == "shortcut").input[1] = "fixed"
    path = foreign.save(tmp_path, model)
    assert export(path, tmp_path / "out", {"images": (1, 3, 16, 24)}).manifest.inputs[0].shape[2:] == (16, 24)
    with pytest.raises(ImpTrtError, match=r"yours\.onnx"):
        export(path, tmp_path / "bad", {"images": (1, 3, 32, 24)})
    assert not (tmp_path / "bad").exists()


# ---- inputs to verify on ----


def test_given_inputs(tmp_path: Path) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    folder = tmp_path / "calls"
    folder.mkdir()
    for seed in range(3):
        np.savez(folder / f"{seed}.npz", **foreign.images(seed))
    report = export(path, tmp_path / "out", frames=folder)
    assert report.manifest.verification["source"] == "3 of calls"
    assert report.manifest.verification["calls"] == 3
    with np.load(golden_path(report.path)) as golden:
        assert np.array_equal(golden["input0"], foreign.images(0)["images"])
    report = export(path, tmp_path / "out", frames=folder / "1.npz")
    assert report.manifest.verification["source"] == "1 of 1.npz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"image": np.zeros((1, 3, 16, 24), np.float32)},
            r"the arrays images.*savez\('call0\.npz', images=\.\.\.",
        ),
        ({"images": np.zeros((1, 3, 16, 24))}, r"float32\[1, 3, 16, 24\].*float64"),
        ({"images": np.zeros((1, 3, 16, 25), np.float32)}, r"\[1, 3, 16, 25\]"),
        (b"PK\x03\x04", "an .npz file"),
    ],
)
def test_given_inputs_that_do_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    if isinstance(content, bytes):
        (tmp_path / "call.npz").write_bytes(content)
    else:
        np.savez(tmp_path / "call.npz", **content)
    with pytest.raises(ArtifactError, match=message) as caught:
        export(path, tmp_path / "out", frames=tmp_path / "call.npz")
    assert "call.npz" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pictures_are_no_inputs(tmp_path: Path) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    with pytest.raises(UsageError, match=r"numpy\.savez\('call0\.npz', images=\.\.\.\)"):
        export(path, tmp_path / "out", frames=tmp_path / "pictures")
    with pytest.raises(UsageError, match=r"got .*missing\.npz"):
        export(path, tmp_path / "out", frames=tmp_path / "missing.npz")


# ---- engines ----


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> list[ModelProto]:
    """A builder whose engines hold the graph that it got; returns these graphs."""
    built: list[ModelProto] = []

    def make_engine(
        model: Any, precision: str, target: Any, *others: Any, foreign: bool = False
    ) -> BuiltEngine:
        assert foreign
        built.append(onnx.load_model_from_string(model))
        payload = plan(built[-1])
        info = engines.info(
            compute_capabilities=("{}.{}".format(*CAPABILITY),),
            version=VERSIONS["tensorrt"],
            platform=platform_name(),
            operators={},
            layer_precisions={"Half": 3},
        )
        return BuiltEngine(payload, read_plan_header(payload), info, "engine inspector")

    monkeypatch.setattr(network, "make_engine", make_engine)
    return built


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = engines.orin(gpu=DependencyMissing("the NVIDIA driver", got="no libcuda.so.1"))
    here = replace(here, name=platform_name(), tensorrt=VERSIONS["tensorrt"])
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))
    monkeypatch.setattr("imp_trt.export.plan.check_target", lambda *arguments: None)


def test_where_the_engine_runs_it_is_verified(tmp_path: Path, builder: list[ModelProto]) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    with fake_gpu():
        report = export(path, tmp_path / "out", precision="fp16", target="tensorrt")
        assert report.path.name == "yours.fp16.tensorrt.engine"
        with Engine(report.path) as engine:
            inputs, expected = images_of(path)
            found = engine.run(inputs)
            on_gpu = engine.run_on_device(inputs)
            assert np.array_equal(on_gpu["logits"].numpy(), found["logits"])
    assert np.abs(found["logits"] - expected["logits"]).max() < 5e-3 * np.abs(expected["logits"]).max()
    assert not any(node.op_type == "ArgMax" for node in builder[0].graph.node), "as in exports of checkpoints"
    manifest = read_network(report.path).manifest
    assert (manifest.kind, manifest.verification["verified_on"]) == ("engine", "engine")
    assert manifest.engine is not None
    assert manifest.engine.layer_precisions == {"Half": 3}
    assert manifest.benchmark["network_ms"] > 0  # type: ignore[operator]
    assert manifest.golden_sha256
    assert not report.graph_only


def test_where_it_cannot_run_its_graph_is_verified(
    tmp_path: Path, builder: list[ModelProto], no_gpu: None
) -> None:
    report = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", target="tensorrt")
    assert report.graph_only
    assert report.manifest.verification["verified_on"] == "onnxruntime-cpu"
    assert report.manifest.benchmark == {}
    assert "no libcuda.so.1" in report.not_run_reason


def test_other_answers_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder answers with the engine of another network."""
    path = foreign.save(tmp_path, foreign.plain())
    info = engines.info(
        compute_capabilities=("{}.{}".format(*CAPABILITY),),
        version=VERSIONS["tensorrt"],
        platform=platform_name(),
        operators={},
    )
    payload = plan(foreign.plain(scale=1.5))
    other = BuiltEngine(payload, read_plan_header(payload), info, "engine inspector")
    monkeypatch.setattr(network, "make_engine", lambda *arguments, **options: other)
    before = sorted(tmp_path.iterdir())
    with fake_gpu(), pytest.raises(VerificationError, match=r"'logits': .*--frames FILE\.npz"):
        export(path, tmp_path / "out", target="tensorrt")
    assert sorted(tmp_path.iterdir()) == before


def test_an_artifact_becomes_an_engine_with_its_golden_arrays(
    tmp_path: Path, builder: list[ModelProto]
) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    artifact = export(path, tmp_path / "out", precision="fp16").path
    with fake_gpu():
        report = export(artifact, tmp_path / "out", precision="fp16", target="tensorrt")
    assert report.path.name == "yours.fp16.tensorrt.engine"
    assert builder[0].SerializeToString() == artifact.read_bytes()
    assert report.manifest.verification["source"] == "golden arrays of yours.fp16.onnx"
    assert report.manifest.verification["calls"] == 1
    assert report.manifest.source_sha256 == read_network(artifact).manifest.source_sha256
    with pytest.raises(UsageError, match=r"keeps its precision.*--engine fp16"):
        export(artifact, tmp_path / "more", precision="fp32")
    with pytest.raises(UsageError, match="shapes are fixed"):
        export(artifact, tmp_path / "more", {"images": (1, 3, 16, 24)}, precision="fp16")
    assert not (tmp_path / "more").exists()


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_rtx_builds_it(tmp_path: Path, precision: str, no_driver: None) -> None:
    path = foreign.save(tmp_path, foreign.plain())
    report = export(path, tmp_path / "out", precision=precision, target="tensorrt-rtx")
    assert report.graph_only
    engine = report.manifest.engine
    assert engine is not None
    assert read_plan_header(report.path.read_bytes()).backend == engine.backend == "tensorrt-rtx"
    assert engine.layer_precisions == {"Float" if precision == "fp32" else "Half": 3}
    assert report.path.stat().st_size > 10_000


@needs_rtx
@pytest.mark.parametrize("plugin", [False, True])
def test_tensorrt_rtx_builds_the_operator(tmp_path: Path, plugin: bool, no_driver: None) -> None:
    path = foreign.save(tmp_path, foreign.projecting())
    options = EngineOptions(plugin=plugin)
    report = export(path, tmp_path / "out", precision="fp16", target="tensorrt-rtx", engine=options)
    engine = report.manifest.engine
    assert engine is not None
    assert report.manifest.ops == {"InstanceMaskProjection": 1}
    assert engine.operators == {"InstanceMaskProjection": "plugin" if plugin else "function"}


@needs_rtx
def test_what_the_builder_rejects_leaves_nothing(tmp_path: Path, no_driver: None) -> None:
    """ONNX Runtime knows the operator, TensorRT does not."""
    model = foreign.plain()
    model.graph.node.append(
        helper.make_node("BitShift", ["classes", "classes"], ["shifted"], name="shift", direction="LEFT")
    )
    model.graph.output.append(helper.make_tensor_value_info("shifted", TensorProto.UINT8, [1, 16, 24]))
    path = foreign.save(tmp_path, model)
    with pytest.raises(BuildError, match="BitShift"):
        export(path, tmp_path / "out", target="tensorrt-rtx")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with TensorRT-RTX and no GPU, whichever this is."""
    here = replace(Platform.detect(), tensorrt=None, gpu=DependencyMissing("driver", got="no libcuda"))
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))


# ---- refused ----


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
def test_files_that_are_refused(
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
        ({"engine": EngineOptions(keep_onnx=True), "target": "tensorrt-rtx"}, "--keep-onnx"),
        ({"target": "jetson-orin"}, "on the device itself"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: Any, message: str) -> None:
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


def test_weights_beyond_float16_stay_float32(tmp_path: Path) -> None:
    """Weights of 6e5, which float16 cannot have, and inputs whose results it can."""
    path = foreign.save(tmp_path, foreign.plain(scale=1e6))
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
    np.savez(tmp_path / "small.npz", images=mean + np.float32(1e-6) * foreign.images()["images"])
    report = export(path, tmp_path / "out", precision="fp16", frames=tmp_path / "small.npz")
    types = {t.name.removesuffix(".float16"): t.data_type for t in onnx.load(report.path).graph.initializer}
    assert (types["w0"], types["w1"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_values_beyond_float16_are_found(
    tmp_path: Path, target: str, builder: list[ModelProto], no_gpu: None
) -> None:
    """ONNX Runtime computes float16 layers in float32 on a CPU, where nothing overflows; a GPU does not."""
    path = foreign.save(tmp_path, foreign.plain(scale=1e6))
    with pytest.raises(VerificationError, match=r"'logits': .*--engine fp32"):
        export(path, tmp_path / "out", precision="fp16", target=target)
    assert not (tmp_path / "out").exists()
    assert export(path, tmp_path / "out", target=target).manifest.precision == "fp32"
