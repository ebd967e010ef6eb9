# SPDX-License-Identifier: Apache-2.0
"""The building process may crash, hang, be killed or find nothing: typed errors, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import imp_trt
from imp_trt.errors import BuildError, DependencyMissing, OutputError
from imp_trt.export.tensorrt import build_worker, builder
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import build_engine, rtx_environment
from tests.support.stub_packages import alive, stub_package

JOB = BuildJob("tensorrt-rtx", "fp16", plugins="plugin", operators={"Op": ("a", "b")}, workspace=5)

HANGING = """
    import os, pathlib, subprocess, sys, time
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(os.environ["STARTED"]).write_text(f"{os.getpid()} {helper.pid}")
    time.sleep(60)
"""

BUILDING = """
import sys
from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import build_engine
build_engine(b"", BuildJob("tensorrt-rtx", "fp32"))
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Everything temporary goes below a folder that must be empty in the end."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    # Installed or not: the parent must start the child.
    monkeypatch.setattr(builder, "require_builder", lambda backend: None)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def stub(tmp_path, monkeypatch):
    return lambda source: stub_package(monkeypatch, tmp_path, "tensorrt_rtx", source)


def started(path: Path) -> list[int]:
    """The process numbers that a hanging child has written."""
    for _ in range(300):
        if path.exists() and (text := path.read_text().split())[1:]:
            return [int(number) for number in text]
        time.sleep(0.1)
    raise AssertionError("the child did not start")


def gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_a_job_survives_serialization(tmp_path):
    path = tmp_path / "job.json"
    path.write_text(JOB.to_json())
    assert BuildJob.read(path) == JOB


@pytest.mark.slow
def test_a_crash_is_reported_with_the_end_of_stderr(stub):
    stub("import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()")
    with pytest.raises(BuildError, match=r"builder crashed: got SIGABRT; last output: .*last words"):
        build_engine(b"", JOB)


@pytest.mark.slow
def test_a_kill_by_the_system_is_about_memory(stub):
    stub("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(BuildError, match=r"was killed.*memory.*--workspace"):
        build_engine(b"", JOB)


def test_an_unforeseen_exception_is_a_build_error(stub):
    stub("raise RuntimeError('surprise')")
    with pytest.raises(BuildError, match=r"exit code 1; last output: .*surprise"):
        build_engine(b"", JOB)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ImportError", "OSError"])
def test_a_library_that_does_not_load_is_missing(stub, kind):
    stub(f"raise {kind}('libnvinfer.so.10: cannot open shared object file')")
    with pytest.raises(DependencyMissing, match=r"cannot be loaded.*libnvinfer.*--target onnxruntime"):
        build_engine(b"", JOB)


@pytest.mark.slow
def test_a_builder_without_its_gpu(stub):
    stub("""
        __version__ = "10.3.0"
        class ILogger:
            WARNING = ERROR = 0
        def Builder(logger):
            raise TypeError("pybind11::init(): factory function returned nullptr")
    """)
    with pytest.raises(DependencyMissing, match=r"10\.3\.0 cannot create a builder.*nullptr"):
        build_engine(b"", JOB)


@pytest.mark.slow
def test_text_printed_on_stdout_is_ignored(stub):
    stub("import os; os.write(1, b'noise\\n'); print('more noise'); raise ImportError('gone')")
    with pytest.raises(DependencyMissing, match="gone"):
        build_engine(b"", JOB)


@pytest.mark.slow
def test_text_printed_while_python_starts_is_ignored(stub, tmp_path):
    folder = tmp_path / "stubs"
    stub("raise ImportError('gone')")
    (folder / "sitecustomize.py").write_text("print('welcome to this machine')")
    with pytest.raises(DependencyMissing, match="gone"):
        build_engine(b"", JOB)


def test_relative_folders_of_modules_are_found(stub, tmp_path, monkeypatch):
    stub("raise ImportError('the stub')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "stubs")
    with pytest.raises(DependencyMissing, match="the stub"):
        build_engine(b"", JOB)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("IMP_TRT_CACHE", "cache", "{here}/cache"),
        ("IMP_TRT_PLUGIN_LIBRARY", "build/lib.so", "{here}/build/lib.so"),
        ("LD_LIBRARY_PATH", "TensorRT/lib:/usr/lib", "{here}/TensorRT/lib:/usr/lib"),
    ],
)
def test_relative_paths_in_the_environment_stay_those_of_the_caller(
    stub, tmp_path, monkeypatch, name, value, expected
):
    """The child runs in a folder that is deleted: kernels in a cache there would be lost."""
    stub(f"import os\nraise ImportError(os.environ[{name!r}])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(DependencyMissing, match=f"[ :]{expected.format(here=tmp_path)}[.;]"):
        build_engine(b"", JOB)


def test_the_child_imports_the_package_of_its_parent(stub, monkeypatch):
    """Not another one that is installed, where the parent has found its own by sys.path alone."""
    stub("import imp_trt\nraise ImportError(f'with {imp_trt.__file__}')")
    monkeypatch.chdir("/")
    with pytest.raises(DependencyMissing, match=f"with {imp_trt.__file__}"):
        build_engine(b"", JOB)


def test_no_room_for_the_engine_is_reported():
    with pytest.raises(OutputError, match=r"No space left.*free disk space"):
        raise_in_worker(OSError(28, "No space left on device"))


def raise_in_worker(error):
    """What the worker does when the engine cannot be written."""
    trt = MagicMock(__version__="1")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_import", "_logger", "_builder"):
            patch.setattr(build_worker, name, MagicMock(return_value=trt))
        for name in ("_register", "check_plugin_layers", "network_types", "check_network", "_monitor"):
            patch.setattr(build_worker, name, MagicMock())
        patch.setattr(Path, "read_bytes", lambda self: b"")
        patch.setattr(Path, "write_bytes", MagicMock(side_effect=error))
        patch.setattr(build_worker, "configure", MagicMock())
        build_worker.run(JOB, MagicMock())


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), KeyboardInterrupt()])
def test_what_the_callback_raises_is_not_about_files(stub, monkeypatch, error):
    def tell(stream, progress):
        raise error

    stub("import time; time.sleep(60)")
    monkeypatch.setattr(builder, "_listen", tell)
    with pytest.raises(type(error)):
        build_engine(b"", JOB)


@pytest.mark.slow
def test_the_building_process_needs_neither_pytorch_nor_onnx(stub):
    stub("""
        import sys
        found = sorted({"torch", "onnx", "onnxruntime", "cv2"} & set(sys.modules))
        raise ImportError(f"modules: {found}")
    """)
    with pytest.raises(DependencyMissing, match=r"modules: \[\]"):
        build_engine(b"", JOB)


def test_modules_in_the_callers_folder_are_not_imported(stub, tmp_path, monkeypatch):
    stub("raise ImportError('the right one')")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DependencyMissing, match="the right one"):
        build_engine(b"", JOB)


def test_a_silent_builder_shows_a_sign_of_life(monkeypatch):
    monkeypatch.setattr(builder, "_HEARTBEAT_S", 0.1)
    reader, writer = os.pipe()
    seen = []
    os.write(writer, b'{"event": "progress", "stage": "build", "done": 7, "total": 100}\n')

    def hear(*step):
        seen.append(step)
        if len(seen) == 4:
            os.write(writer, b'{"event": "done", "version": "1"}\n')
            os.close(writer)

    with os.fdopen(reader, "rb") as stream:
        assert builder._listen(stream, hear) == {"event": "done", "version": "1"}
    assert seen == [("build", 7, 100)] * 4


@pytest.mark.slow
def test_an_exception_in_the_callback_ends_the_child(stub, monkeypatch, tmp_path):
    stub(HANGING)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    pids = []

    def interrupt(stream, progress):
        pids.extend(started(tmp_path / "started"))
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "_listen", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_engine(b"", JOB)
    assert len(pids) == 2
    assert gone(pids), "the child and what it started"


@pytest.mark.slow
def test_the_child_does_not_outlive_a_killed_parent(stub, monkeypatch, tmp_path, scratch):
    stub(HANGING)
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    parent = subprocess.Popen([sys.executable, "-c", BUILDING], stderr=subprocess.PIPE)
    try:
        child, helper = started(tmp_path / "started")
        parent.kill()
        parent.wait()
        assert gone([child])
        os.kill(helper, signal.SIGKILL)
    finally:
        parent.kill()
        parent.communicate()
    # After a kill no process is left to remove the folder.
    for path in sorted(scratch.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_no_room_for_the_files_in_between(monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        build_engine(b"", JOB)


def test_a_missing_package_is_reported_before_any_process_is_started(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DependencyMissing, match=r"tensorrt is not installed.*--target onnxruntime"):
        build_engine(b"", BuildJob("tensorrt", "fp32"))


def test_the_library_path_names_the_link(tmp_path, monkeypatch):
    libraries = tmp_path / "tensorrt_rtx_libs"
    libraries.mkdir()
    (libraries / "__init__.py").write_text("")
    (libraries / "libtensorrt_rtx.so.1").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_libs", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/before")
    folder = tmp_path / "links"
    folder.mkdir()
    for _ in range(2):  # a folder may be used again
        environment = rtx_environment(folder)
        assert environment["LD_LIBRARY_PATH"] == f"{folder}:/opt/before"
    assert (folder / "libtensorrt_rtx.so").resolve() == libraries / "libtensorrt_rtx.so.1"
    assert os.environ["LD_LIBRARY_PATH"] == "/opt/before"


def test_without_the_packaged_library_the_environment_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert rtx_environment(tmp_path) == dict(os.environ)
    assert not (tmp_path / "libtensorrt_rtx.so").exists()
