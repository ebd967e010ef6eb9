# SPDX-License-Identifier: Apache-2.0
"""Third-party ONNX files: what becomes of them, and what is verified on which inputs."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from imp_trt import Engine
from imp_trt.artifacts.artifact import golden_path
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.errors import (
    ArtifactError,
    ImpTrtError,
    UsageError,
)
from imp_trt.export import ExportOptions, export_network
from imp_trt.export.verification import arrays
from tests.support import foreign
from tests.support.foreign import export, images_of

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


def test_outputs_that_the_inputs_do_not_reach_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """NaN agrees with NaN, and a constant with itself."""
    model = foreign.plain()
    gain = next(i for i in model.graph.initializer if i.name == "gain")
    gain.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), "gain"))
    export(foreign.save(tmp_path, model), tmp_path / "out")
    assert "output 'logits', 'pooled': NaN or infinite in all calls" in caplog.text
    assert "output 'classes': the same in all calls" in caplog.text
    caplog.clear()
    export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out")
    assert caplog.text == ""


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("error", "said"), [(0.0, False), (0.005, False), (0.3, True)])
def test_scores_next_to_boxes_in_pixels(
    caplog: pytest.LogCaptureFixture, last: bool, error: float, said: bool
) -> None:
    """As in YOLO's output [B, 4 + classes, N]: an error of 0.3 of a score is within 0.01 of 640 pixels."""
    random = np.random.default_rng(0)
    boxes, scores = 640 * random.random((1, 4, 300)), random.random((1, 8, 300))
    reference, candidate = (np.concatenate([boxes, s], 1).astype("f4") for s in (scores, scores + error))
    if last:
        reference, candidate = reference.swapaxes(1, 2), candidate.swapaxes(1, 2)
    agreement = arrays.OutputAgreement()
    agreement.add(reference, candidate, arrays.TOLERANCES["fp16"])
    assert agreement.share == 1.0
    arrays.warn_of_untested({"output0": agreement}, "fp16")
    assert ("output 'output0' has channels" in caplog.text) == said


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_that_are_inputs_too(tmp_path: Path, ir_version: int) -> None:
    """Older exporters list weights among the inputs, with the file's values as defaults."""
    model = foreign.plain(opset=13)
    model.ir_version = ir_version
    model.graph.input.extend(
        helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in model.graph.initializer
    )
    report = export(foreign.save(tmp_path, model), tmp_path / "out", precision="fp16")
    assert [spec.name for spec in report.manifest.inputs] == ["images"]
    with Engine(report.path) as engine:
        engine.warmup()


def test_an_artifact_takes_no_other_inputs(tmp_path: Path) -> None:
    artifact = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out").path
    np.savez(tmp_path / "call.npz", **foreign.images())
    with pytest.raises(UsageError, match=r"--frames .*verified with its golden arrays.*leave it out"):
        export(artifact, tmp_path, frames=tmp_path / "call.npz")
    with pytest.raises(UsageError, match=r"--shape .*whose shapes are fixed"):
        export(artifact, tmp_path, {"images": (1, 3, 16, 24)})


@pytest.mark.parametrize("name", ["in", "images/0", "lambda"])
def test_the_command_that_saves_inputs_is_python(tmp_path: Path, name: str) -> None:
    model = foreign.plain()
    model.graph.input[0].name = model.graph.node[0].input[0] = name
    with pytest.raises(UsageError) as caught:
        export(foreign.save(tmp_path, model), tmp_path / "out", frames=tmp_path / "missing.npz")
    call = ast.parse(str(caught.value.fix).strip(), mode="eval").body
    assert isinstance(call, ast.Call)


def test_unverified_only_on_request(tmp_path: Path) -> None:
    report = export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", verify=False)
    assert report.manifest.verification == {"verified_on": None, "skipped": "by request (--no-verify)"}
    assert not golden_path(report.path).exists()


# ---- shapes ----


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("sides", [(1, 3, 16, 24), ("B", 3, "H", "W")])
def test_outputs_without_a_shape(tmp_path: Path, precision: str, sides: tuple[int | str, ...]) -> None:
    """ONNX Runtime runs such files, and some exporters write them."""
    model = foreign.plain(sides)
    shapes = None if sides[0] == 1 else {"images": (1, 3, 16, 24)}
    wanted = export(foreign.save(tmp_path, model), tmp_path / "a", shapes, precision=precision)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    found = export(foreign.save(tmp_path, model), tmp_path / "b", shapes, precision=precision)
    assert found.manifest.outputs == wanted.manifest.outputs
    assert found.manifest.verification["outputs"] == wanted.manifest.verification["outputs"]


def test_the_option_for_an_open_shape_is_one_word(tmp_path: Path) -> None:
    model = foreign.plain(("B", 3, "H", "W"))
    model.graph.input[0].name = model.graph.node[0].input[0] = "my frame"
    path = foreign.save(tmp_path, model)
    with pytest.raises(UsageError, match=r"--shape 'my frame=1x3x1x1'"):
        export(path, tmp_path / "out")


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
    assert report.manifest.verification["source"] == "3 .npz files of calls"
    assert report.manifest.verification["calls"] == 3
    with np.load(golden_path(report.path)) as golden:
        assert np.array_equal(golden["input0"], foreign.images(0)["images"])
    report = export(path, tmp_path / "out", frames=folder / "1.npz")
    assert report.manifest.verification["source"] == "1.npz"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"image": np.zeros((1, 3, 16, 24), np.float32)},
            r"the arrays images.*savez\('call0\.npz', images=\.\.\.",
        ),
        ({"images": np.zeros((1, 3, 16, 24))}, r"float32\[1, 3, 16, 24\].*float64"),
        ({"images": np.zeros((1, 3, 16, 25), np.float32)}, r"\[1, 3, 16, 25\]"),
        ({"images": np.full((1, 3, 16, 24), np.nan, np.float32)}, "NaN in 1152 of 1152 values"),
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


def test_a_file_in_which_no_layer_becomes_float16(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = foreign.plain()
    nodes = [node for node in model.graph.node if node.name in ("center", "normalize")]
    del model.graph.node[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("normalized", TensorProto.FLOAT, (1, 3, 16, 24)))
    path = foreign.save(tmp_path, model)
    export(path, tmp_path / "out", precision="fp16")
    assert "no layer is in float16" in caplog.text
    caplog.clear()
    export(foreign.save(tmp_path, foreign.plain()), tmp_path / "out", precision="fp16")
    assert caplog.text == ""


def test_weights_beyond_float16_stay_float32(tmp_path: Path) -> None:
    """Weights of 6e5, which float16 cannot have, and inputs whose results it can."""
    path = foreign.save(tmp_path, foreign.plain(scale=1e6))
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(1, 3, 1, 1)
    np.savez(tmp_path / "small.npz", images=mean + np.float32(1e-6) * foreign.images()["images"])
    report = export(path, tmp_path / "out", precision="fp16", frames=tmp_path / "small.npz")
    types = {t.name.removesuffix(".float16"): t.data_type for t in onnx.load(report.path).graph.initializer}
    assert (types["w0"], types["w1"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)
