# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO backend: the answers of ONNX Runtime, from the same file."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import numpy_helper

from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import open_backend
from imp_trt.backends.openvino import OpenVinoBackend, has_bfloat16
from imp_trt.backends.openvino_import import TELEMETRY_MODULE, import_openvino
from imp_trt.errors import ArtifactError, DependencyMissing, InvalidInput
from imp_trt.models.outputs import OUTPUT_NAMES
from imp_trt.segmenter import Segmenter
from tests.support import tiny

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason="needs the package openvino: pip install 'imp-trt[openvino]'",
)


@needs_openvino
def test_outputs_and_their_types(tmp_path: Path) -> None:
    backend = open_backend(tiny.artifact(tmp_path, batch=2), "openvino", threads=1)
    frames = np.stack([tiny.frame(seed=0), tiny.frame(seed=1)])
    before = frames.copy()
    outputs = backend.infer(frames)
    assert tuple(outputs) == OUTPUT_NAMES
    for spec in backend.manifest.outputs:
        assert (outputs[spec.name].dtype.name, outputs[spec.name].shape) == (spec.dtype, spec.shape)
    assert np.array_equal(outputs["semantic"], tiny.truth(frames))
    assert np.array_equal(frames, before)
    kept = {name: array.copy() for name, array in outputs.items()}
    backend.infer(frames[::-1].copy())
    assert all(np.array_equal(outputs[name], kept[name]) for name in kept), "arrays of their own"


@needs_openvino
def test_a_segmenter_on_it(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    frame = tiny.frame(100, 170)
    with Segmenter(path, backend="openvino") as ours, Segmenter(path) as reference:
        mine, wanted = ours.run(frame), reference.run(frame)
    assert np.array_equal(mine.semantic, wanted.semantic)
    for name in ("boxes", "labels", "scores", "masks"):
        assert np.array_equal(getattr(mine.instances, name), getattr(wanted.instances, name))


@needs_openvino
def test_closed(tmp_path: Path) -> None:
    backend = open_backend(tiny.artifact(tmp_path), "openvino")
    backend.close()
    backend.close()
    with pytest.raises(InvalidInput, match="closed"):
        backend.infer(tiny.frame()[None])


@pytest.mark.slow
@needs_openvino
def test_signals_arrive_after_another_thread_released_it(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    program = f"""
import gc, os, signal, threading
from imp_trt.backends import open_backend

backends = [open_backend({str(path)!r}, "openvino")]
def release():
    backends.pop().close()
    gc.collect()
thread = threading.Thread(target=release)
thread.start()
thread.join()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


@needs_openvino
def test_wrong_arguments(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    with pytest.raises(InvalidInput, match="device"):
        OpenVinoBackend(path, device="cuda")
    with pytest.raises(InvalidInput, match="precision"):
        OpenVinoBackend(path, precision="float16")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="ends with"):
        open_backend(tmp_path / "model.pt", "openvino")


@needs_openvino
def test_graphs_that_are_not_those_of_the_manifest(tmp_path: Path) -> None:
    for payload in (b"", b"nothing", tiny.graph(batch=2).SerializeToString()):
        path = write_artifact(tmp_path / "bad.onnx", payload, tiny.manifest())
        with pytest.raises(ArtifactError, match=r"rejects the graph|differ from the manifest"):
            OpenVinoBackend(path)


@needs_openvino
def test_old_versions_name_the_one_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    model = tiny.graph()
    step = next(tensor for tensor in model.graph.initializer if tensor.name == "step")
    step.CopyFrom(numpy_helper.from_array(np.float32(64), "step"))  # int32 / float32
    path = write_artifact(tmp_path / "bad.onnx", model.SerializeToString(), tiny.manifest())
    for version, named in {
        "2025.4.1-20426-82bbf0292c5-releases/2025/4": True,
        "2026.1.0-21367": False,
    }.items():
        monkeypatch.setattr(openvino, "__version__", version)
        with pytest.raises(ArtifactError, match="rejects the graph") as raised:
            OpenVinoBackend(path)
        assert ("install OpenVINO 2026.1 or newer" in str(raised.value)) is named


@needs_openvino
@pytest.mark.slow
def test_nothing_is_sent_and_no_file_is_left(tmp_path: Path) -> None:
    """OpenVINO sends an event when it is imported, from a process of its own, with an id that it keeps."""
    program = """
import multiprocessing.process, sys
def start(process): raise AssertionError("a process is started")
multiprocessing.process.BaseProcess.start = start
import imp_trt
imp_trt.Segmenter(sys.argv[1], backend="openvino")
assert "openvino" in sys.modules and "openvino_telemetry" not in sys.modules
"""
    home, path = tmp_path / "home", tiny.artifact(tmp_path)
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "CI": ""}
    subprocess.run([sys.executable, "-c", program, str(path)], env=environment, check=True)
    assert not [file for file in home.rglob("*") if "intel" in file.parts]


@pytest.mark.parametrize("loaded", [True, False])
def test_the_package_for_telemetry_is_hidden_from_openvino_only(
    monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.delitem(sys.modules, TELEMETRY_MODULE, raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, TELEMETRY_MODULE, ModuleType(TELEMETRY_MODULE))
    before = sys.modules.get(TELEMETRY_MODULE)
    seen = []

    def importing(name: str) -> ModuleType:
        seen.append((name, sys.modules[TELEMETRY_MODULE]))
        return ModuleType(name)

    monkeypatch.setattr("imp_trt.backends.openvino_import.import_module", importing)
    import_openvino()
    assert seen == [("openvino", None)]
    assert sys.modules.get(TELEMETRY_MODULE) is before
    assert (TELEMETRY_MODULE in sys.modules) == loaded


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[openvino\]"):
        OpenVinoBackend(tiny.artifact(tmp_path))
    with pytest.raises(ArtifactError):
        OpenVinoBackend(tmp_path / "missing.onnx")


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("fpu avx512f amx_bf16 amx_tile", True),
        ("avx512_bf16", True),
        ("fpu avx512f avx2", False),
        ("", False),
    ],
)
def test_who_has_bfloat16(tmp_path: Path, flags: str, wanted: bool) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: amx_bf16 in name only\nflags\t\t: {flags}\n")
    assert has_bfloat16(path) is wanted
    assert has_bfloat16(tmp_path / "none") is False


@needs_openvino
@pytest.mark.slow
def test_functions_of_an_exported_network_are_inlined() -> None:
    """The whole network with its two operators, against ONNX Runtime."""
    import onnxruntime as ort

    from imp_trt.backends.openvino import _compile
    from tests.support.networks import smooth_frames
    from tests.support.typed_models import typed

    payload = typed("fp32").model.SerializeToString()
    assert b"InstanceMaskProjection" in payload
    compiled = _compile(payload, "network", 1, "float32")
    session = ort.InferenceSession(payload, providers=["CPUExecutionProvider"])
    request = compiled.create_infer_request()
    for frame in smooth_frames(3).numpy():
        wanted = dict(zip(OUTPUT_NAMES, session.run(OUTPUT_NAMES, {"frame": frame[None]}), strict=True))
        request.infer({"frame": frame[None]}, share_inputs=True)
        for port in compiled.outputs:
            (name,) = port.get_names() & set(OUTPUT_NAMES)
            found = request.get_tensor(port).data
            if name in ("semantic", "labels", "num_detections"):
                assert (found == wanted[name]).mean() > 0.999, name
            else:
                assert np.allclose(found, wanted[name], atol=1e-3), name
