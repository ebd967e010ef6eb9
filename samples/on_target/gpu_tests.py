# SPDX-License-Identifier: Apache-2.0
"""Run tests/gpu; exit code 5 if all of them were skipped.

gpu_tests.py [--kernels-only]; --kernels-only leaves out those that build C++ or need TensorRT. The counts are
printed as JSON while the tests run, so that a run that is ended has counted what was done.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter

from checkout import ROOT, environment

BUILT = ("test_plugin_harness.py", "test_sanitizer.py", "test_segmenter_rtx_gpu.py")
OUTCOMES = {"PASSED": "passed", "FAILED": "failures", "ERROR": "errors", "SKIPPED": "skipped"}
_OUTCOME = re.compile(r"^tests/gpu/\S+::.* (PASSED|FAILED|ERROR|SKIPPED)\b")
_EVERY_S = 2.0


def command(kernels_only: bool) -> list[str]:
    arguments = ["tests/gpu", "-m", "gpu", "-v", "-rs", "--durations=8", "-p", "no:cacheprovider"]
    arguments += ["-p", "no:xdist"]  # they share one GPU
    if kernels_only:
        arguments += [f"--ignore=tests/gpu/{name}" for name in BUILT]
    return [sys.executable, "-m", "pytest", *arguments]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels-only", action="store_true")
    options = parser.parse_args()
    counts = Counter(dict.fromkeys(("tests", *OUTCOMES.values()), 0))
    child = subprocess.Popen(
        command(options.kernels_only),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert child.stdout is not None
    lines, told = [], time.monotonic()
    for line in child.stdout:
        lines.append(line.rstrip())
        found = _OUTCOME.match(line)
        if found:
            counts.update(("tests", OUTCOMES[found[1]]))
            if time.monotonic() - told > _EVERY_S:
                told = time.monotonic()
                _tell(counts)
    code = child.wait()
    _tell(counts)
    skipped = [line for line in lines if line.startswith("SKIPPED [")]
    print(*lines[-60:], *skipped[:1], sep="\n", file=sys.stderr)
    if code not in (0, 5):  # 5: no test was found
        return 1
    if counts["tests"] > counts["skipped"]:
        return 0
    reason = skipped[0].partition(": ")[2] if skipped else "no test was found"
    print(f"every test was skipped: {reason}", file=sys.stderr)
    return 5


def _tell(counts: Counter[str]) -> None:
    failed = counts["failures"] + counts["errors"]
    text = f"{counts['passed']} passed, {failed} failed, {counts['skipped']} skipped"
    print(json.dumps({"gpu_tests": dict(counts), "verdict": text}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
