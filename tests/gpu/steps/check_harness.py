# SPDX-License-Identifier: Apache-2.0
"""The C++ plugins on a GPU through their own interface: check_harness.py --harness FILE --library FILE"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.gpu.steps.on_gpu import need_gpu, report, skip


def cases(folder: Path) -> list[str]:
    """Inputs and float64 results of every case, as folders that the harness reads."""
    from tests.support.plugin_cases import write_cases

    return [str(path) for path in write_cases(folder / "cases")]


def options_of(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--harness", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    return parser


def main() -> int:
    options = options_of(argparse.ArgumentParser(description=__doc__)).parse_args()
    need_gpu()
    if not options.harness.is_file():
        skip(f"no harness {options.harness}: see the step that builds it")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(options.harness), str(options.library), *cases(Path(folder))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    passed, captured = done.stdout.count("on two streams, same bits"), done.stdout.count("from a graph")
    report(
        harness={"cases": len(command) - 2, "passed": passed, "from_a_graph": captured},
        verdict=f"{passed} of {len(command) - 2} cases, {captured} results from a graph",
    )
    return 0 if done.returncode == 0 and passed == len(command) - 2 else 1


if __name__ == "__main__":
    sys.exit(main())
