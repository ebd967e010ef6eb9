# SPDX-License-Identifier: Apache-2.0
"""Run tests/gpu; exit code 5 if all of them were skipped."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-m",
            "gpu",
            "-q",
            "-rs",
            "-p",
            "no:xdist",  # they share one GPU
            f"--junitxml={results}",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not results.exists():
            print(done.stdout + done.stderr, file=sys.stderr)
            return 1
        suite = next(ElementTree.parse(results).getroot().iter("testsuite"))  # noqa: S314  # pytest's own file
    counts = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
    print(json.dumps(counts))
    print(done.stdout[-3000:], file=sys.stderr)
    if counts["failures"] or counts["errors"]:
        return 1
    return 0 if counts["tests"] > counts["skipped"] else 5


if __name__ == "__main__":
    sys.exit(main())
