# SPDX-License-Identifier: Apache-2.0
"""Broken packages, planted on PYTHONPATH: each is named, with the fix that helps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from imp_trt.cli import doctor
from imp_trt.cli.import_checks import ImportCheck
from imp_trt.cli.import_fixes import fix_for

NUMPY_1 = """
import sys
print("A module that was compiled using NumPy 1.x cannot be run in\\nNumPy 2.1.0", file=sys.stderr)
raise ImportError("numpy.core.multiarray failed to import")
"""


def plant(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> None:
    """Packages in front of the installed ones, for child processes."""
    for name, source in sources.items():
        package = folder / "stubs" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder / "stubs"))


@pytest.mark.slow
def test_one_child_imports_all_and_survives_nothing_it_should_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(
        tmp_path,
        monkeypatch,
        crashing="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        leaving="raise SystemExit(7)",
        talking='print(\'{"x": 1}\')\nprint(\'["talking", "lie"]\')',
        sleeping="import time; time.sleep(60)",
        failing="raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
    )
    modules = ["json", "crashing", "talking", "leaving", "sleeping", "no_such_module", "failing"]
    found = ImportCheck(modules, timeout_s=1.5).result()
    assert found == {
        "json": None,
        "crashing": "the import ended the process with signal SIGSEGV",
        "talking": None,
        "leaving": "SystemExit: 7",
        "sleeping": "the import did not finish within 1.5 s",
        "no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
        "failing": "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
    }


def test_what_has_not_answered_by_the_deadline_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, monkeypatch, sleeping="import time; time.sleep(60)")
    start = monotonic()
    assert ImportCheck(["sleeping"]).result(start + 0.2) == {}
    assert monotonic() - start < 5
    assert ImportCheck([]).result() == {}


@pytest.mark.parametrize(
    ("broken", "module", "fix"),
    [
        (
            {"cv2": "raise ImportError('libGL.so.1: cannot open shared object file: No such file')"},
            "cv2",
            "apt install libgl1, or without windows: pip uninstall -y opencv-python && "
            "pip install opencv-python-headless",
        ),
        (
            {"cv2": "raise ImportError('libgthread-2.0.so.0: cannot open shared object file: No such file')"},
            "cv2",
            "apt install libglib2.0-0",
        ),
        ({"cv2": NUMPY_1}, "cv2", "pip install --upgrade 'opencv-python>=4.10'"),
        (
            {"cv2": "raise ImportError('cannot import name x (most likely due to a circular import)')"},
            "cv2",
            "pip uninstall -y opencv-python",
        ),
        (
            {"onnxruntime": "raise ImportError('/x/onnxruntime.so: undefined symbol: _Z3foo')"},
            "onnxruntime",
            "pip install --force-reinstall onnxruntime",
        ),
        ({"onnxruntime": NUMPY_1}, "onnxruntime", "pip install --upgrade 'onnxruntime>=1.20'"),
        (
            {"onnxruntime": 'raise ImportError("/lib/libm.so.6: version `GLIBC_2.38\' not found")'},
            "onnxruntime",
            "for a newer Linux",
        ),
        (
            {"numpy": "raise ImportError('Importing the numpy C-extensions failed')"},
            "numpy",
            "pip install --force-reinstall 'numpy>=1.26'",
        ),
        (
            {"cv2": "import json\nraise ImportError('broken on purpose')"},
            "cv2",
            "pip install --force-reinstall opencv-python",
        ),
    ],
)
def test_a_broken_package_has_its_own_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: dict[str, str], module: str, fix: str
) -> None:
    plant(tmp_path, monkeypatch, **broken)
    failures = ImportCheck([module]).result()
    versions = {"opencv-python": "4.8.1.78", "onnxruntime": "1.17.0", "numpy": "2.1.0"}
    (first, *_) = doctor._abilities({"devices": []}, versions, failures)
    if module == "numpy":
        failures["cv2"] = "ImportError: Importing the numpy C-extensions failed"
        (first, *_) = doctor._abilities({"devices": []}, versions, failures)
    assert first["what"] == "run ONNX artifacts"
    assert not first["works"]
    assert fix in first["fix"]
    assert "imp-trt[" not in first["fix"], "it is installed"


@pytest.mark.slow
def test_the_command_names_what_is_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(
        tmp_path,
        monkeypatch,
        cv2="raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')",
        torch="raise OSError('libcublas.so.13: cannot open shared object file: No such file or directory')",
    )
    command = [sys.executable, "-m", "imp_trt.cli.doctor", "--json", "--full"]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    abilities = {a["what"]: a for a in json.loads(child.stdout)["abilities"]}
    assert "libGL.so.1" in abilities["run ONNX artifacts"]["missing"]["cv2"]
    assert "libgl1" in abilities["run ONNX artifacts"]["fix"]
    assert "libcublas" in abilities["train"]["missing"]["torch"]
    assert "pip install --force-reinstall torch" in abilities["train"]["fix"]


@pytest.mark.parametrize(
    ("module", "failure", "fix"),
    [
        ("torch", "ModuleNotFoundError: No module named 'torch'", None),
        ("cuda.bindings", "ModuleNotFoundError: No module named 'cuda'", None),
        ("cv2", "ModuleNotFoundError: No module named 'numpy'", "pip install numpy"),
        (
            "torch",
            "ModuleNotFoundError: No module named 'typing_extensions'",
            "pip install typing-extensions",
        ),
        ("cv2", "ModuleNotFoundError: No module named 'numpy._core'", "pip install --upgrade 'numpy>=2'"),
        (
            "tensorrt",
            "ImportError: libnvinfer.so.10: cannot open shared object file: x",
            "python3-libnvinfer",
        ),
        ("cuda.bindings", "ImportError: libcuda.so.1: cannot open shared object file: x", "NVIDIA driver"),
        ("cv2", "ImportError: libfoo.so.3: cannot open shared object file: x", "package with libfoo.so.3"),
        ("numpy", "the import ended the process with signal SIGILL", "--force-reinstall 'numpy"),
        ("onnxruntime", "the import ended the process with signal SIGILL", "needs a newer CPU"),
    ],
)
def test_fixes_by_the_text_of_the_failure(module: str, failure: str, fix: str | None) -> None:
    found = fix_for(module, failure, {})
    assert found == fix if fix is None else fix in str(found)


def test_a_headless_opencv_stays_headless() -> None:
    failure = "ImportError: libfoo.so.1: cannot open shared object file: x"
    fix = fix_for("cv2", failure, {"opencv-python-headless": "4.11.0.86"})
    assert "opencv-python-headless-headless" not in str(fix)
