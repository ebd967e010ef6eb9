# SPDX-License-Identifier: Apache-2.0
"""Python plugins that would not run on the GPU of an engine: said before the long work begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from imp_trt.cuda.platform import Platform
from imp_trt.errors import DependencyMissing, DeviceError
from imp_trt.export import pipeline, plan
from imp_trt.export.options import EngineOptions, ExportOptions
from imp_trt.export.pipeline import export_model
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_nvrtc import FakeLibrary, have_nvrtc


class LongWork(Exception):
    """The export has begun."""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine one with TensorRT 10.13, TensorRT-RTX 1.7 and a GPU; returns its driver."""

    def lower(*_):
        raise LongWork

    monkeypatch.setattr(pipeline, "lower", lower)
    monkeypatch.setenv("IMP_TRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IMP_TRT_PLUGIN_LIBRARY", raising=False)
    detect = Platform.detect
    versions = {"name": "linux-x86_64", "tensorrt": "10.13.0", "tensorrt_rtx": "1.7.1"}
    monkeypatch.setattr(plan.Platform, "detect", lambda: replace(detect(), **versions))
    with FakeCuda(compute_capability=(8, 9), driver_version=(12, 6)).installed() as fake:
        yield fake
        assert fake.alive["contexts"] == 0


@pytest.fixture
def export(weights, tmp_path):
    def run(target, **options):
        engine = EngineOptions(**options)
        export_model(weights, tmp_path / "out", ExportOptions(precision="fp16", target=target, engine=engine))

    return run


def test_no_nvrtc(machine, export, monkeypatch):
    have_nvrtc(monkeypatch)
    with pytest.raises(DependencyMissing) as caught:
        export("tensorrt")
    said = str(caught.value)
    assert said.startswith("plugins on this GPU: NVRTC, the CUDA run-time compiler: expected ")
    assert "pip install 'imp-trt[cuda12]'; or" in said
    assert "IMP_TRT_PLUGIN_LIBRARY" in said
    assert "--no-plugin" in said


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (FakeLibrary((13, 0), [(8, 9)]), r"NVRTC 13\.0 is newer than the NVIDIA driver.*\[cuda12\]"),
        (FakeLibrary((12, 6), [(9, 0)]), r"does not compile for compute capability 8\.9"),
    ],
)
def test_an_nvrtc_that_does_not_fit(machine, export, monkeypatch, library, said):
    have_nvrtc(monkeypatch, library)
    with pytest.raises(DependencyMissing, match=said):
        export("tensorrt")


def test_kernels_that_the_driver_does_not_load(machine, export, monkeypatch):
    have_nvrtc(monkeypatch, FakeLibrary((12, 6), [(8, 9)]))
    machine.fail("cuModuleLoadData", "CUDA_ERROR_INVALID_IMAGE")
    with pytest.raises(DeviceError, match=r"plugins on this GPU: cuModuleLoadData failed: .*--no-plugin"):
        export("tensorrt")


def test_what_runs_or_needs_no_plugin_begins(machine, export, monkeypatch, tmp_path):
    have_nvrtc(monkeypatch, FakeLibrary((12, 6), [(8, 9)]))
    with pytest.raises(LongWork):
        export("tensorrt")
    assert machine.calls.count("cuModuleLoadData") == 2
    have_nvrtc(monkeypatch)
    library = tmp_path / "libimp_trt_plugins.so"
    library.touch()
    for options in ({"plugin": False}, {"plugin_library": library}):
        with pytest.raises(LongWork):
            export("tensorrt", **options)
    monkeypatch.setenv("IMP_TRT_PLUGIN_LIBRARY", str(library))
    with pytest.raises(LongWork):
        export("tensorrt")
    assert machine.calls.count("cuModuleLoadData") == 2


@pytest.mark.parametrize(
    ("target", "options", "warned"),
    [
        ("tensorrt-rtx", {"plugin": True}, True),
        ("tensorrt-rtx", {"plugin": True, "compute_capabilities": ("12.0",)}, False),
        ("tensorrt-rtx", {}, False),  # function bodies
        ("onnxruntime", {}, False),
    ],
)
def test_engines_for_other_machines_are_still_built(
    machine, export, monkeypatch, caplog, target, options, warned
):
    have_nvrtc(monkeypatch)
    with pytest.raises(LongWork):
        export(target, **options)
    assert ("the engine will not run on this machine" in caplog.text) == warned


def test_without_a_gpu_nothing_is_reported(export, monkeypatch, caplog):
    here = replace(
        Platform.detect(),
        tensorrt_rtx="1.7.1",
        gpu=DependencyMissing("GPU"),
        plugins=DependencyMissing("NVRTC"),
    )
    monkeypatch.setattr(plan.Platform, "detect", lambda: here)
    monkeypatch.setattr(pipeline, "lower", lambda *_: (_ for _ in ()).throw(LongWork))
    with pytest.raises(LongWork):
        export("tensorrt-rtx", plugin=True)
    said = [record.getMessage() for record in caplog.records]
    other = ("for tests only", "synthetic street scenes")  # the terms of the weights, and the frames
    assert not [text for text in said if not any(part in text for part in other)]
