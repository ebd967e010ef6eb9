# SPDX-License-Identifier: Apache-2.0
"""Engines of other programs: they get a manifest if they are what the ONNX file says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from imp_trt import Segmenter
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cli.export import main
from imp_trt.cuda.platform import Platform
from imp_trt.errors import ArtifactError, DependencyMissing, EngineIncompatible, UsageError, VerificationError
from imp_trt.export import adopt
from imp_trt.export.adopt import adopt_engine
from imp_trt.export.options import EngineOptions, ExportOptions
from tests.support import engines, foreign, tiny, tiny_parts
from tests.support.fake_tensorrt import VERSIONS, fake_gpu, plan
from tests.support.golden import onnx_artifact, wrong_golden


def saved(folder: Path, payload: bytes | None = None, library: str = "tensorrt") -> Path:
    """What trtexec --saveEngine wrote."""
    path = folder / "saved.plan"
    path.write_bytes(plan(tiny.graph(), library) if payload is None else payload)
    return path


@pytest.mark.parametrize("library", VERSIONS)
def test_an_adopted_engine_runs(tmp_path: Path, library: str) -> None:
    path = onnx_artifact(tmp_path)
    with fake_gpu(library):
        report = adopt_engine(saved(tmp_path, library=library), path)
        assert report.path == tmp_path / "saved.engine"
        with Segmenter(report.path) as segmenter:
            result = segmenter.run(tiny.frame())
            assert np.array_equal(result.semantic, tiny.truth(tiny.frame()))
    manifest = read_artifact(report.path).manifest
    assert manifest.engine is not None
    assert manifest.engine.version == VERSIONS[library]
    assert manifest.engine.compute_capabilities == ("8.9",)
    assert manifest.engine.onnx_sha256 == read_artifact(path).manifest.sha256
    assert manifest.verification["verified_on"] == "engine"
    assert manifest.golden_sha256
    assert (tmp_path / "saved.plan").exists()


def test_a_canvas_part_is_not_adopted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = onnx_artifact(tmp_path)
    whole = read_artifact(path)
    both = replace(whole.manifest, canvas_part=CanvasPart((1, *tiny_parts.SHAPE)))
    write_artifact(path, whole.payload, both, canvas=tiny_parts.graph().SerializeToString())
    with fake_gpu():
        report = adopt_engine(saved(tmp_path), path, options=ExportOptions(verify=False))
    assert read_artifact(report.path, canvas=True).manifest.canvas_part is None
    assert f"has no canvas part, although {path} has one" in caplog.text


def test_the_file_of_a_third_party_network_is_rejected(tmp_path: Path) -> None:
    path = foreign.artifact(tmp_path, foreign.plain())
    with fake_gpu(), pytest.raises(UsageError, match=f"third-party network.*imp-export {path}"):
        adopt_engine(saved(tmp_path), path)


def test_an_engine_of_another_network_is_rejected(tmp_path: Path) -> None:
    path = onnx_artifact(tmp_path)
    before = sorted(tmp_path.iterdir())
    other = saved(tmp_path, plan(tiny.graph(2)))
    with fake_gpu(), pytest.raises(ArtifactError, match=r"its tensors differ.*\[1, 64, 96, 3\].*\[2, 64"):
        adopt_engine(other, path)
    other.unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_with_other_answers_is_rejected(tmp_path: Path) -> None:
    path = onnx_artifact(tmp_path, frames=wrong_golden())
    with fake_gpu(), pytest.raises(VerificationError, match=r"50\.0000%"):
        adopt_engine(saved(tmp_path), path)
    assert not (tmp_path / "saved.engine").exists()


def test_an_engine_that_does_not_load_is_rejected(tmp_path: Path) -> None:
    path = onnx_artifact(tmp_path)
    with fake_gpu() as (trt, _):
        trt.fails.add("deserialize")
        with pytest.raises(EngineIncompatible, match="plan was damaged"):
            adopt_engine(saved(tmp_path), path)


@pytest.mark.parametrize(("wanted", "form"), [(None, "plugin"), (True, "plugin"), (False, None)])
def test_plugin_layers_are_found_out_by_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool | None, form: str | None
) -> None:
    path = onnx_artifact(tmp_path, ops={"InstanceMaskProjection": {"version": "1", "sampling": "bilinear"}})
    monkeypatch.setattr("imp_trt.export.from_onnx.check_structure", lambda structure, artifact: None)
    tried = []

    class Loaded:
        def close(self) -> None: ...

    def loads_with_plugins_only(candidate: Path) -> Loaded:
        engine = read_artifact(candidate).manifest.engine
        assert engine is not None
        tried.append(engine.operators["InstanceMaskProjection"])
        if tried[-1] == "function":
            raise EngineIncompatible("no creator of InstanceMaskProjection")
        return Loaded()

    monkeypatch.setattr(adopt, "open_backend", loads_with_plugins_only)
    monkeypatch.setattr("imp_trt.cuda.platform._plugins", lambda gpu: "Python, NVRTC 12.6")
    options = ExportOptions(verify=False, engine=EngineOptions(plugin=wanted))
    with fake_gpu():
        if form is None:
            with pytest.raises(EngineIncompatible, match="no creator"):
                adopt_engine(saved(tmp_path), path, options=options)
            return
        report = adopt_engine(saved(tmp_path), path, options=options)
    assert report.manifest.engine is not None
    assert report.manifest.engine.operators == {"InstanceMaskProjection": form}
    assert tried == (["function", "plugin"] if wanted is None else ["plugin"])


def test_where_no_gpu_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = engines.orin(gpu=DependencyMissing("the NVIDIA driver", got="none"), tensorrt_rtx="1.7.1.116")
    monkeypatch.setattr(Platform, "detect", classmethod(lambda cls, device=0: here))
    path = onnx_artifact(tmp_path)
    with pytest.raises(DependencyMissing, match="run this on the device that built the engine"):
        adopt_engine(saved(tmp_path), path)
    report = adopt_engine(saved(tmp_path, library="tensorrt_rtx"), path)
    assert report.graph_only
    assert report.manifest.verification["verified_on"] == "onnxruntime-cpu"


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (b"x" * 100, ArtifactError, "another header"),
        (b"", ArtifactError, "at least 28 bytes"),
        (engines.plan(serialization=1), ArtifactError, "unknown serialization version"),
        (engines.rtx_plan()[:-1], ArtifactError, "bytes, as its header says"),
        (engines.plan("8.6.1.6"), UsageError, "the engine is of 8.6.1.6"),
        (engines.plan("10.4.0.1"), EngineIncompatible, "TensorRT version of the engine"),
    ],
)
def test_files_that_are_no_engine_of_this_machine(
    tmp_path: Path, payload: bytes, error: type[Exception], text: str
) -> None:
    path = onnx_artifact(tmp_path)
    with fake_gpu(), pytest.raises(error, match=text):
        adopt_engine(saved(tmp_path, payload), path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--adopt", "saved.plan"], "--onnx FILE.onnx"),
        (["--onnx", "tiny.fp16.onnx"], "pass the .onnx file alone"),
        (["--adopt", "saved.plan", "--onnx", "tiny.fp16.onnx", "--workspace", "1"], "takes no --workspace"),
        (["--adopt", "saved.plan", "--onnx", "tiny.fp16.onnx", "--target", "rtx"], "one of tensorrt "),
        (
            ["--adopt", "saved.plan", "--onnx", "tiny.fp16.onnx", "-o", "new.trt"],
            "ends with .engine, got .trt",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    onnx_artifact(tmp_path)
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    with fake_gpu():
        assert main(arguments) == 2
    assert text in capsys.readouterr().err


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_artifact(tmp_path)
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    with fake_gpu():
        assert main(["--adopt", "saved.plan", "--onnx", "tiny.fp16.onnx", "-o", "out", "-q"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "PASSED imp-export out/saved.engine verified_on=engine"
