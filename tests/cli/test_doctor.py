# SPDX-License-Identifier: Apache-2.0
"""imp-doctor answers whatever is broken."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest

from imp_trt.cli import doctor
from tests.support.fake_nvrtc import have_nvrtc


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_start_imports", lambda full: dict)


@pytest.mark.usefixtures("quick")
def test_report_names_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["system"]["python"].startswith("3.")
    assert data["packages"]["numpy"]
    assert all(a["works"] for a in data["abilities"] if "GPU" not in a["missing"])
    assert len(data["abilities"]) == 8
    assert {"openvino", "av"} <= set(data["packages"])
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "yes  run ONNX artifacts" in text
    assert "GPU driver" in text


def test_what_is_missing_comes_with_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {
        "onnxruntime": "ModuleNotFoundError: No module named 'onnxruntime'",
        "torch": "no answer within 120 s",
    }
    monkeypatch.setattr(doctor, "_start_imports", lambda full: lambda: broken)
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "no   run ONNX artifacts" in text
    assert "fix: pip install 'imp-trt[onnx]'" in text
    assert "torch: no answer within 120 s" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "probe",
    [
        "_start_imports",
        "_system",
        "_packages",
        "_gpu",
        "_engines",
        "_abilities",
        "_mismatches",
        "_advice",
    ],
)
def test_a_failing_probe_leaves_a_gap_and_no_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], probe: str
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("probe failed")

    monkeypatch.setattr(doctor, probe, fail)
    assert doctor.main(["--json"]) == 0
    assert "probe failed" in capsys.readouterr().out
    assert doctor.main([]) == 0


class FakeDriver:
    """The few functions of libcuda that are called, for one GPU."""

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def cuInit(self, flags: int) -> int:
        return self.code

    def cuDriverGetVersion(self, out: object) -> int:
        return self._set(out, 12080)

    def cuDeviceGetCount(self, out: object) -> int:
        return self._set(out, 1)

    def cuDeviceGet(self, out: object, index: int) -> int:
        return self._set(out, index)

    def cuDeviceGetName(self, buffer: ctypes.Array[ctypes.c_char], size: int, device: object) -> int:
        buffer.value = b"Fake RTX"
        return 0

    def cuDeviceTotalMem_v2(self, out: object, device: object) -> int:
        return self._set(out, 24 << 30)

    def cuDeviceGetAttribute(self, out: object, attribute: int, device: object) -> int:
        return self._set(out, {75: 8, 76: 9}[attribute])

    @staticmethod
    def _set(out: object, value: int) -> int:
        out._obj.value = value  # type: ignore[attr-defined]
        return 0


def test_gpu_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert doctor._gpu()["driver"] is None
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver())
    found = doctor._gpu()
    assert found["driver"] == "CUDA 12.8"
    assert found["devices"] == [{"name": "Fake RTX", "compute_capability": "8.9", "memory_gib": 24.0}]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(code=100))
    assert doctor._gpu()["note"] == "cuInit failed with code 100"


GPU = {
    "driver": "CUDA 12.8",
    "devices": [{"name": "Fake RTX", "compute_capability": "8.9", "memory_gib": 24.0}],
    "note": None,
}
NO_GPU = {"driver": None, "devices": [], "note": "no NVIDIA driver (libcuda.so.1)"}


def rows(gpu: dict[str, object]) -> dict[str, dict[str, object]]:
    return {str(row["what"]): row for row in doctor._engines(gpu)}


@pytest.mark.usefixtures("quick")
def test_openvino_alone_runs_onnx_artifacts() -> None:
    missing = {"onnxruntime": "ModuleNotFoundError: No module named 'onnxruntime'"}
    found = {a["what"]: a for a in doctor._abilities(NO_GPU, {}, missing)}
    assert not found["run ONNX artifacts"]["works"]
    assert found["run ONNX artifacts in OpenVINO"]["works"]
    missing = {"openvino": "ModuleNotFoundError: No module named 'openvino'"}
    found = {a["what"]: a for a in doctor._abilities(NO_GPU, {}, missing)}
    assert found["run ONNX artifacts in OpenVINO"]["fix"] == "pip install 'imp-trt[openvino]'"


@pytest.mark.usefixtures("quick")
def test_engines_need_a_gpu() -> None:
    found = {a["what"]: a for a in doctor._abilities(NO_GPU, {}, {})}
    assert found["build and run TensorRT engines"]["missing"] == {"GPU": NO_GPU["note"]}
    assert "GPU" in found["run TensorRT-RTX engines"]["fix"]
    assert found["build TensorRT-RTX engines"]["works"]
    assert all(a["works"] for a in doctor._abilities(GPU, {}, {}))


@pytest.mark.parametrize(
    ("capabilities", "works"), [(["8.9"], True), (["9.0", "8.6"], True), (["9.0"], False), (["8.7"], False)]
)
def test_tensorrt_rtx_does_not_run_on_every_gpu(capabilities: list[str], works: bool) -> None:
    gpu = GPU | {"devices": [{"compute_capability": capability} for capability in capabilities]}
    found = {ability["what"]: ability for ability in doctor._abilities(gpu, {}, {})}
    assert found["build and run TensorRT engines"]["works"]
    assert found["run TensorRT-RTX engines"]["works"] == works
    if not works:
        assert f"not {capabilities[0]}" in found["run TensorRT-RTX engines"]["missing"]["GPU"]
        assert "use TensorRT on this GPU" in found["run TensorRT-RTX engines"]["fix"]


def test_what_engines_need_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    monkeypatch.setattr("imp_trt.cuda.platform.find_spec", lambda name: None)
    have_nvrtc(monkeypatch)
    found = rows(NO_GPU)
    assert found["GPU"]["note"] == NO_GPU["note"]
    for what in (
        "CUDA driver",
        "GPU",
        "cuda-bindings",
        "NVRTC",
        "TensorRT",
        "TensorRT-RTX",
        "torch-tensorrt",
    ):
        assert found[what]["found"] is None, what
        assert found[what]["fix"], what
    assert "imp-trt[cuda" in str(found["plugins"]["fix"])
    assert "NVRTC" in str(found["plugins"]["note"])


@pytest.mark.parametrize(
    ("driver", "cuda", "tensorrt", "rtx"),
    [
        (None, "cuda", "tensorrt", "tensorrt-rtx"),
        ("CUDA 12.8", "cuda12", "tensorrt-cu12", "tensorrt-rtx-cu12"),
        ("CUDA 13.0", "cuda13", "tensorrt-cu13", "tensorrt-rtx"),
    ],
)
def test_what_is_to_be_installed_is_for_the_driver(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, cuda: str, tensorrt: str, rtx: str
) -> None:
    def absent(name: str) -> str:
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    monkeypatch.setattr("imp_trt.cuda.platform.find_spec", lambda name: None)
    have_nvrtc(monkeypatch)
    gpu = GPU | {"driver": driver}
    found = rows(gpu)
    for what, extra in (
        ("cuda-bindings", cuda),
        ("NVRTC", cuda),
        ("TensorRT", tensorrt),
        ("TensorRT-RTX", rtx),
    ):
        assert f"imp-trt[{extra}]" in str(found[what]["fix"])
    modules = ("tensorrt", "tensorrt_rtx")
    absent_modules = {m: f"ModuleNotFoundError: No module named '{m}'" for m in modules}
    abilities = {a["what"]: a["fix"] for a in doctor._abilities(gpu, {}, absent_modules)}
    assert f"imp-trt[{tensorrt}]" in abilities["build and run TensorRT engines"]
    assert f"imp-trt[{cuda}]" in abilities["build and run TensorRT engines"]
    assert f"imp-trt[{rtx}]" in abilities["run TensorRT-RTX engines"]


def test_what_engines_need_with_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    versions = {"cuda-bindings": "12.8.0", "torch-tensorrt": "2.13.0"}
    monkeypatch.setattr(doctor.metadata, "version", versions.__getitem__)
    monkeypatch.setattr("imp_trt.cuda.platform.installed_version", {"tensorrt": "11.0.0"}.get)
    have_nvrtc(monkeypatch, (13, 0), (12, 8))
    library = tmp_path / "libimp_trt_plugins.so"
    library.write_bytes(b"")
    monkeypatch.setenv("IMP_TRT_PLUGIN_LIBRARY", str(library))
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "kernels").mkdir(parents=True)
    (tmp_path / "cache" / "kernels" / "a.bin").write_bytes(b"")
    found = {what: row["found"] for what, row in rows(GPU).items()}
    assert found == {
        "CUDA driver": "CUDA 12.8",
        "GPU": "Fake RTX (8.9)",
        "cuda-bindings": "12.8.0",
        "NVRTC": "12.8",
        "TensorRT": "11.0.0",
        "TensorRT-RTX": None,
        "torch-tensorrt": "2.13.0",
        "plugins": f"C++ library {library}",
        "kernel cache": f"{tmp_path}/cache/kernels, 1 kernels",
    }


def test_nvrtc_newer_than_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    have_nvrtc(monkeypatch, (13, 2))
    row = rows(GPU)["NVRTC"]
    assert row["found"] is None
    assert "13.2" in str(row["note"])
    assert "pip install 'imp-trt[cuda12]'" in str(row["fix"])
    assert rows(GPU | {"driver": "CUDA 13.0"})["NVRTC"]["found"] == "13.2"


def test_a_cache_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    row = rows(NO_GPU)["kernel cache"]
    assert f"{tmp_path} cannot be written" in str(row["note"])
    assert "IMP_TRT_CACHE" in str(row["fix"])
    monkeypatch.setattr("imp_trt.cuda.cache.folder", lambda: None)
    assert "no home" in str(rows(NO_GPU)["kernel cache"]["note"])


@pytest.mark.usefixtures("quick")
def test_the_rows_are_printed_with_their_remedies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_gpu", lambda: NO_GPU)
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert "CUDA driver" in text
    assert "fix: install the NVIDIA driver" in text
    assert "kernel cache" in text


def test_doctor_needs_the_standard_library_only() -> None:
    code = "import sys, imp_trt.cli.doctor; print([m for m in ('numpy', 'cv2', 'torch') if m in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"
