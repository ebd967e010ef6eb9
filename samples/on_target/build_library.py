# SPDX-License-Identifier: Apache-2.0
"""Build the C++ plugin library with CMake: build_library.py WORK/plugins/libimp_trt_plugins.so

The build log goes to stderr. Exit code 5 if cmake, nvcc or TensorRT's headers are missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MISSING_EXIT = 5


def main(library: Path) -> int:
    for tool in ("cmake", "nvcc"):
        if shutil.which(tool) is None:
            print(f"{tool} is not on the PATH", file=sys.stderr)
            return MISSING_EXIT
    build = library.parent.absolute() / "build"
    configure = ["cmake", "-S", str(ROOT), "-B", str(build)]
    configured = subprocess.run(configure, capture_output=True, text=True, check=False)
    print(configured.stdout + configured.stderr, file=sys.stderr, flush=True)
    if "TENSORRT_ROOT" in configured.stderr and configured.returncode:
        print("TensorRT's headers were not found (see above); set TENSORRT_ROOT", file=sys.stderr)
        return MISSING_EXIT
    if configured.returncode:
        return 1
    built = subprocess.run(["cmake", "--build", str(build), "--parallel"], stdout=sys.stderr, check=False)
    if built.returncode:
        return 1
    shutil.copyfile(build / "libimp_trt_plugins.so", library)  # the link's target, under the plain name
    print(json.dumps({"library": str(library), "bytes": library.stat().st_size}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
