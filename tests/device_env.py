# SPDX-License-Identifier: Apache-2.0
"""The device route in a fresh environment of ``imp-trt[onnx,tensorrt-rtx]``, without PyTorch; with its times.

    python -m tests.device_env [ONNX]

ONNX is a file of imp-export with its manifest and golden frames; without it the bundled weights are exported
first, in this environment. The fresh one is made with pip, which downloads about 0.3 GB. Exit code 1: a step
failed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

NO_TORCH = "import importlib.util; assert not importlib.util.find_spec('torch')"
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Runs all steps and prints a table of their exit codes and times."""
    with tempfile.TemporaryDirectory(prefix="imp_trt_device_") as name:
        folder = Path(name)
        onnx = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else _exported(folder)
        binaries = _environment(folder / "venv")
        engine = folder / "out" / f"{onnx.stem}.engine"
        export = [f"{binaries}/imp-export", str(onnx), "--target", "tensorrt-rtx", "-o", str(engine)]
        steps = {
            "no PyTorch": [f"{binaries}/python", "-c", NO_TORCH],
            "imp-doctor": [f"{binaries}/imp-doctor"],
            "imp-selftest .onnx": [f"{binaries}/imp-selftest", str(onnx)],
            "imp-export .onnx": export,
            "imp-inspect .engine": [f"{binaries}/imp-inspect", str(engine)],
        }
        codes = {step: _timed(step, command, folder) for step, command in steps.items()}
    if codes["imp-inspect .engine"] == 5:  # without a GPU it cannot be loaded here
        codes["imp-inspect .engine"] = 0
    return int(any(codes.values()))


def _exported(folder: Path) -> Path:
    from imp_trt.export import ExportOptions, export_model
    from imp_trt.weights import bundled

    options = ExportOptions(precision="fp16", target="onnxruntime", frame_count=3)
    return export_model(bundled(), folder, options).path


def _environment(folder: Path) -> Path:
    start = time.perf_counter()
    venv.create(folder, with_pip=True)
    source = folder.with_name("source")  # pip leaves its build in the folder that it installs
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "research", "docs")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    pip = [f"{folder}/bin/pip", "install", "--quiet", f"{source}[onnx,tensorrt-rtx]"]
    subprocess.run(pip, check=True)
    print(f"{'pip install':22} {time.perf_counter() - start:6.1f} s")
    return folder / "bin"


def _timed(step: str, command: list[str], folder: Path) -> int:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(f"{step:22} {time.perf_counter() - start:6.1f} s, exit code {done.returncode}")
    if done.returncode:
        print(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
