# SPDX-License-Identifier: Apache-2.0
"""Choosing and opening backends; the ONNX Runtime one against graphs that lie."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import open_backend
from imp_trt.backends.onnxruntime import OnnxRuntimeBackend
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.errors import (
    ArtifactError,
    CheckpointError,
    DependencyMissing,
    DeviceError,
    ImpTrtError,
    InvalidInput,
)
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support import tiny, tiny_parts


def test_outputs_and_their_types(tmp_path: Path) -> None:
    backend = open_backend(tiny.artifact(tmp_path, batch=2), threads=1)
    frames = np.stack([tiny.frame(seed=0), tiny.frame(seed=1)])
    before = frames.copy()
    outputs = backend.infer(frames)
    assert tuple(outputs) == OUTPUT_NAMES
    for spec in backend.manifest.outputs:
        assert (outputs[spec.name].dtype.name, outputs[spec.name].shape) == (spec.dtype, spec.shape)
    assert np.array_equal(outputs["semantic"], tiny.truth(frames))
    assert np.array_equal(frames, before)


def test_closing_twice_and_use_after_close(tmp_path: Path) -> None:
    backend = open_backend(tiny.artifact(tmp_path))
    backend.close()
    backend.close()
    with pytest.raises(InvalidInput, match="closed"):
        backend.infer(tiny.frame()[None])


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("model.txt", {}, "ends with"),
        ("model", {}, "no suffix"),
        ("model.onnx", {"backend": "tensorflow"}, "one of onnxruntime, openvino, pytorch"),
        ("model.onnx", {"backend": "pytorch"}, "'onnxruntime'"),
        ("model.pt", {"backend": "onnxruntime"}, "'pytorch'"),
        ("model.onnx", {"threads": 0}, "threads"),
        ("model.onnx", {"threads": 1.5}, "threads"),
        ("model.onnx", {"threads": 100_000}, "from 1 to 1024"),
        ("model.onnx", {"device": "tpu"}, "device"),
        ("model.onnx", {"device": "cuda:x"}, "device"),
    ],
)
def test_impossible_choices(name: str, options: dict[str, object], error: str) -> None:
    with pytest.raises(InvalidInput, match=error):
        open_backend(name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", [0, 1, 64, 0.5, 0.99])
def test_a_graph_cut_short_that_matches_its_manifest_is_rejected(tmp_path: Path, kept: float) -> None:
    whole = tiny.graph().SerializeToString()
    part = whole[: int(kept if kept > 0.99 or kept == 0 else kept * len(whole))]
    path = write_artifact(tmp_path / "bad.onnx", part, tiny.manifest())
    with pytest.raises(ArtifactError, match=r"rejects the graph|differ from the manifest"):
        open_backend(path)


@pytest.mark.slow
def test_flipped_bits_never_crash_the_process(tmp_path: Path) -> None:
    whole = tiny.graph().SerializeToString()
    generator = np.random.default_rng(1)
    for position in generator.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(generator.integers(0, 8))
        path = write_artifact(tmp_path / "bad.onnx", bytes(damaged), tiny.manifest())
        try:
            backend = open_backend(path, threads=1)
        except ArtifactError:
            continue
        try:
            backend.infer(tiny.frame()[None])
        except ImpTrtError:
            continue


def _renamed(old: str, new: str) -> bytes:
    model = tiny.graph()
    for node in model.graph.node:
        node.output[:] = [new if n == old else n for n in node.output]
        node.input[:] = [new if n == old else n for n in node.input]
    for value in (*model.graph.output, *model.graph.input):
        value.name = new if value.name == old else value.name
    return model.SerializeToString()


def _extra_input() -> bytes:
    model = tiny.graph()
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))
    return model.SerializeToString()


def _dynamic() -> bytes:
    model = tiny.graph()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "H"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (_renamed("semantic", "classes"), "outputs of the graph differ"),
        (_renamed("frame", "image"), "inputs of the graph differ"),
        (_extra_input(), "inputs of the graph differ"),
        (_dynamic(), "inputs with fixed shapes, got 'frame' without one"),
        (tiny.graph(batch=2).SerializeToString(), "inputs of the graph differ"),
    ],
)
def test_a_graph_other_than_the_manifest_says_is_rejected(
    tmp_path: Path, payload: bytes, message: str
) -> None:
    path = write_artifact(tmp_path / "other.onnx", payload, tiny.manifest())
    with pytest.raises(ArtifactError, match=message):
        open_backend(path)


@pytest.mark.parametrize("location", ["../secret.bin", "{folder}/secret.bin", "beside.bin"])
def test_external_data_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    # The hash covers one file; weights from another one would be unchecked.
    model = tiny.graph()
    tensor = next(t for t in model.graph.initializer if t.name == "boxes_value")
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    for place in (tmp_path / "secret.bin", tmp_path / "deep" / "beside.bin"):
        place.write_bytes(tensor.raw_data)
    size = len(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location.format(folder=tmp_path), 0, size)
    tensor.ClearField("raw_data")
    path = write_artifact(tmp_path / "deep" / "x.onnx", model.SerializeToString(), tiny.manifest())
    with pytest.raises(ArtifactError, match="rejects the graph"):
        open_backend(path)


class SoftTimeLimitExceeded(Exception):
    """As task queues raise it in a signal handler, which may run within a call of the network."""


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (SoftTimeLimitExceeded(), SoftTimeLimitExceeded),
        (TimeoutError(), TimeoutError),
        (RuntimeError("of the library"), ImpTrtError),
    ],
)
def test_errors_of_signal_handlers_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, seen: type[Exception]
) -> None:
    backend = open_backend(tiny.artifact(tmp_path))

    def run(*_: object) -> object:
        raise raised

    monkeypatch.setattr(backend, "_session", SimpleNamespace(run=run))
    with pytest.raises(seen) as caught:
        backend.infer(np.zeros((1, tiny.HEIGHT, tiny.WIDTH, 3), np.uint8))
    assert type(caught.value) is seen


def test_missing_onnxruntime_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny.artifact(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DependencyMissing, match=r"pip install 'imp-trt\[onnx\]'"):
        OnnxRuntimeBackend(path)
    path.write_bytes(b"")
    with pytest.raises(ArtifactError, match="does not match"):  # the worse news first
        OnnxRuntimeBackend(path)


def test_missing_torch_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyMissing, match=r"pip install 'imp-trt\[torch\]'"):
        open_backend("model.safetensors")


@pytest.mark.parametrize("data", [None, b"", b"garbage" * 10, b"\xff" * 8])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bad_checkpoints(tmp_path: Path, data: bytes | None, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CheckpointError):
        open_backend(path, device="cpu")


def test_manifest_of_a_loaded_artifact(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path)
    manifest = open_backend(path).manifest
    assert manifest.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_bfloat16_file_is_for_tensorrt(tmp_path: Path) -> None:
    path = tiny.artifact(tmp_path, precision="bf16")
    with pytest.raises(ArtifactError, match=r"bf16.*trtexec.*--engine fp32"):
        open_backend(path)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        (None, OrtDevice()),
        ("cpu", OrtDevice()),
        ("cuda", OrtDevice("cuda")),
        ("cuda:2", OrtDevice("cuda", 2)),
        ("tensorrt-rtx:1", OrtDevice("tensorrt-rtx", 1)),
    ],
)
def test_devices_of_onnx_runtime(text: str | None, device: OrtDevice) -> None:
    assert OrtDevice.parse(text) == device


@pytest.mark.parametrize(
    ("device", "needed"), [("cuda", "onnxruntime-gpu"), ("tensorrt-rtx", "TensorRT-RTX")]
)
def test_a_gpu_without_its_provider_says_what_to_install(tmp_path: Path, device: str, needed: str) -> None:
    with pytest.raises(DependencyMissing, match=needed):
        open_backend(tiny.artifact(tmp_path), device=device)


class FakeRuntime:
    """onnxruntime with a CUDA provider, whose sessions use the given providers."""

    def __init__(self, used: list[str]) -> None:
        self.used = used
        self.asked: object = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ort = import_onnxruntime()
        real = ort.InferenceSession

        def session(payload: bytes, options: object, providers: object) -> object:
            self.asked = providers
            opened = real(payload, options, providers=["CPUExecutionProvider"])
            monkeypatch.setattr(opened, "get_providers", lambda: self.used)
            return opened

        monkeypatch.setattr(ort, "InferenceSession", session)
        monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])


CUDA = "CUDAExecutionProvider"


def test_a_network_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime([CUDA, "CPUExecutionProvider"])
    runtime.install(monkeypatch)
    backend = open_backend(tiny_parts.artifact(tmp_path), device="cuda:1", threads=1)
    assert runtime.asked == [(CUDA, {"device_id": 1}), "CPUExecutionProvider"]
    assert np.array_equal(backend.infer(tiny.frame()[None])["semantic"][0], tiny.truth(tiny.frame()))
    assert isinstance(backend, OnnxRuntimeBackend)
    backend.after_fork()
    with pytest.raises(InvalidInput, match="forked"):
        backend.open_canvas()
    with pytest.raises(InvalidInput, match="forked"):
        backend.infer(tiny.frame()[None])


def test_a_silent_fall_back_to_the_cpu_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRuntime(["CPUExecutionProvider"]).install(monkeypatch)
    with pytest.raises(DeviceError, match="CPUExecutionProvider"):
        open_backend(tiny.artifact(tmp_path), device="cuda")
