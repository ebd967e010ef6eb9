# SPDX-License-Identifier: Apache-2.0
"""The kernels under compute-sanitizer, after a planted fault has shown that it watches.

check_sanitizer.py memcheck|racecheck --harness FILE --library FILE: the C++ harness if it was built, else the
kernels on raw device pointers (check_kernels.py --quick). Exit code 5: a tool or the GPU is missing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gpu.steps.check_harness import cases, options_of
from tests.gpu.steps.on_gpu import need_gpu, report, skip

ROOT = Path(__file__).parents[3]
FOUND = 9
"""Exit code of compute-sanitizer for what it has found."""


def sanitize(tool: str, *command: str) -> subprocess.CompletedProcess[str]:
    watched = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), *command]
    return subprocess.run(watched, capture_output=True, text=True, check=False)


def plant(folder: Path, capability: tuple[int, int]) -> str:
    """A program with faults for the sanitizer to find; ends the process if it does not compile."""
    program = folder / "planted_faults"
    arch = "-arch=sm_{}{}".format(*capability)
    command = ["nvcc", arch, str(ROOT / "tests/gpu/planted_faults.cu"), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"nvcc: {done.stderr or done.stdout}")
    return str(program)


def main() -> int:
    parser = options_of(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("tool", choices=("memcheck", "racecheck"))
    options = parser.parse_args()
    info = need_gpu()
    lacking = [tool for tool in ("compute-sanitizer", "nvcc") if shutil.which(tool) is None]
    if lacking:
        skip(f"{' and '.join(lacking)} not on the PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = sanitize(options.tool, plant(folder, info.compute_capability), options.tool)
        report(**{options.tool: {"planted_fault_found": planted.returncode == FOUND}})
        if planted.returncode != FOUND:
            print(planted.stdout, planted.stderr, sep="\n", file=sys.stderr)
            report(verdict=f"the planted fault was not found (exit code {planted.returncode})")
            return 1
        kernels = "tests.gpu.steps.check_kernels"
        watched, command = "kernels", [sys.executable, "-m", kernels, "--quick"]
        if options.harness.is_file():
            watched, command = "harness", [str(options.harness), str(options.library), *cases(folder)]
        done = sanitize(options.tool, *command)
    errors = next((line for line in done.stdout.splitlines() if "SUMMARY" in line), "no summary").strip("= ")
    report(
        **{options.tool: {"watched": watched, "exit_code": done.returncode, "summary": errors}},
        verdict=f"planted fault found; {watched}: {errors}",
    )
    print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
    return 0 if done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
