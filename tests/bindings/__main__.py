# SPDX-License-Identifier: Apache-2.0
"""Every step on every version of NVIDIA's bindings with both NumPys: ``make bindings``.

``python -m tests.bindings [--version V ...] [--numpy N ...]`` prints a table for each NumPy and what failed;
exit code 1: a cell failed, or there was none to run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import bindings_build
from tests.support.bindings_cell import STEPS
from tests.support.bindings_env import NUMPYS, VERSIONS, Unavailable
from tests.support.bindings_matrix import Outcome, can_build, run_builds, run_plugins
from tests.support.plugin_cases import write_cases

Cell = tuple[str, str]
_MESSAGE = 300  # characters


def _models(folder: Path) -> list[Path]:
    """Each system in each precision."""
    pairs = itertools.product(bindings_build.SYSTEMS, bindings_build.PRECISIONS)
    return [bindings_build.write_model(folder, *pair) for pair in pairs]


def _run(cell: Cell, cases: list[Path], models: list[Path]) -> list[Outcome] | str:
    """A cell's outcomes, or why it cannot be run."""
    started = time.monotonic()
    try:
        outcomes = run_plugins(*cell, cases)
        if can_build(cell[0]) is None:
            outcomes += run_builds(*cell, models)
    except Unavailable as error:
        if error.excusable:
            return str(error)
        return [Outcome("import", "", str(error))]
    failed = sum(one.error is not None for one in outcomes)
    seconds = time.monotonic() - started
    print(f"{cell[0]}, NumPy {cell[1]}: {failed} of {len(outcomes)} failed, {seconds:.0f} s", file=sys.stderr)
    return outcomes


def _mark(outcomes: list[Outcome] | str, step: str) -> str:
    if isinstance(outcomes, str):
        return "skipped"
    errors = [one.error for one in outcomes if one.step == step]
    if not errors:
        return "-"
    passed = errors.count(None)
    return "ok" if passed == len(errors) else f"{passed}/{len(errors)}"


def _table(numpy: str, results: dict[Cell, list[Outcome] | str], versions: list[str]) -> Iterable[str]:
    width = max(map(len, versions)) + 2
    yield f"NumPy {numpy}".ljust(14) + "".join(version.rjust(width) for version in versions)
    for step in (*STEPS, bindings_build.STEP):
        marks = [_mark(results[version, numpy], step) for version in versions]
        yield step.ljust(14) + "".join(mark.rjust(width) for mark in marks)


def _failures(results: dict[Cell, list[Outcome] | str]) -> Iterable[str]:
    """Each message once, with the steps and cells that it came from."""
    steps: dict[str, dict[str, None]] = {}
    cells: dict[str, dict[str, None]] = {}
    for (version, numpy), outcomes in results.items():
        cell = f"{version} with NumPy {numpy}"
        if isinstance(outcomes, str):
            yield f"skipped: {cell}: {outcomes}"
            continue
        for one in outcomes:
            if one.error is not None:
                message = " ".join(one.error.split())[:_MESSAGE]
                steps.setdefault(message, {})[one.step] = None
                cells.setdefault(message, {})[cell] = None
    for message, where in steps.items():
        yield f"failed: {message}\n    steps: {', '.join(where)}\n    cells: {', '.join(cells[message])}"


def _notes(results: dict[Cell, list[Outcome] | str]) -> Iterable[str]:
    notes = set()
    for (version, _), outcomes in results.items():
        notes |= {(version, one.note) for one in outcomes if isinstance(one, Outcome)}
    for version, note in sorted(notes):
        if note:
            yield f"not in {version}, and asked for before it is used: {note}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bindings", description=__doc__)
    parser.add_argument("--version", nargs="+", default=list(VERSIONS), help="of the bindings")
    parser.add_argument("--numpy", nargs="+", choices=NUMPYS, default=list(NUMPYS))
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    options = parser.parse_args(arguments)
    cells = [(version, numpy) for numpy in options.numpy for version in options.version]
    with tempfile.TemporaryDirectory() as name:
        cases = write_cases(Path(name) / "cases")
        builds = any(can_build(version) is None for version in options.version)
        models = _models(Path(name) / "models") if builds else []
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = pool.map(lambda cell: _run(cell, cases, models), cells)
            results = dict(zip(cells, outcomes, strict=True))
    for numpy in options.numpy:
        print("\n".join(_table(numpy, results, options.version)), end="\n\n")
    print(f"build: {can_build('11.0') or 'TensorRT-RTX below the bindings of TensorRT 11'}")
    for line in (*_notes(results), *_failures(results)):
        print(line)
    ran = [cell for cell in results.values() if not isinstance(cell, str)]
    return int(not ran or any(one.error is not None for cell in ran for one in cell))


if __name__ == "__main__":
    sys.exit(main())
