# SPDX-License-Identifier: Apache-2.0
"""Build the C++ plugin library with CMake: build_library.py WORK/plugins/libimp_trt_plugins.so [--harness]

--harness also builds tests/gpu/plugin_harness, next to the library, both for the GPU of this machine alone.
The build log goes to stderr. Exit code 5 if cmake, nvcc or TensorRT's headers are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MISSING_EXIT = 5
HEADERS = "TensorRT's headers were not found; set TENSORRT_ROOT"


def main(library: Path, harness: bool) -> int:
    lacking = [tool for tool in ("cmake", "nvcc") if shutil.which(tool) is None]
    if lacking:
        print(f"{' and '.join(lacking)} not on the PATH", file=sys.stderr)
        return MISSING_EXIT
    build = library.parent.absolute() / "build"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build)]
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    if harness:
        configure += ["-DIMP_TRT_BUILD_HARNESS=ON", *_own_architecture()]
    configured = subprocess.run(configure, capture_output=True, text=True, check=False)
    print(configured.stdout + configured.stderr, file=sys.stderr, flush=True)
    if "TENSORRT_ROOT" in configured.stderr and configured.returncode:
        print(HEADERS, file=sys.stderr)
        return MISSING_EXIT
    if configured.returncode:
        return 1
    jobs = str(max(1, (os.cpu_count() or 2) // 2))  # other steps run concurrently
    built = subprocess.run(
        ["cmake", "--build", str(build), "--parallel", jobs], stdout=sys.stderr, check=False
    )
    if built.returncode:
        return 1
    shutil.copyfile(build / "libimp_trt_plugins.so", library)  # the link's target, under the plain name
    if harness:
        shutil.copy2(build / "plugin_harness", library.parent)
    print(json.dumps({"library": str(library), "bytes": library.stat().st_size}))
    return 0


def _own_architecture() -> list[str]:
    """CMake's option for the GPU of this machine; none without one, which builds for all."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    number = (said.split() or [""])[0].replace(".", "")
    return [f"-DCMAKE_CUDA_ARCHITECTURES={number}"] if number.isdigit() else []


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("--harness", action="store_true")
    arguments = parser.parse_args()
    sys.exit(main(arguments.library, arguments.harness))
