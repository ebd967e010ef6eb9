# SPDX-License-Identifier: Apache-2.0
"""Mutation check: every listed change of the letterbox or of a kernel's header fails the tests of that file.

    python -m tests.mutation [--only TEXT]

Each mutant is applied to a copy of the repository in a temporary folder, and the tests named for its file run
there. A mutant that no test notices, or whose text is no longer in the file, is reported; the exit code is 1.
The kernels are compiled for the host with g++, as in the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.mutation.mutants import MUTANTS, TESTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("imp_trt", "export", "train", "plugins", "tests", "research", "samples", "pyproject.toml")
_TIMEOUT_S = 900


def copied(folder: Path) -> Path:
    """A copy of the repository's code."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def tests_pass(folder: Path, tests: tuple[str, ...]) -> bool:
    """Whether the tests pass on the copy. A kernel that no longer compiles counts as a failure."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout.decode(errors="replace")[-2000:])
    return done.returncode == 0


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the tests of the file pass with the change.

    Raises:
        ValueError: the text is not in the file.
    """
    path = folder / mutant.path
    text = path.read_text(encoding="utf-8")
    if mutant.before not in text:
        raise ValueError(f"{mutant.path} has no {mutant.before!r}")
    path.write_text(text.replace(mutant.before, mutant.after, 1), encoding="utf-8")
    try:
        return tests_pass(folder, TESTS[mutant.path])
    finally:
        path.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose file contains TEXT")
    options = parser.parse_args(argv)
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.path]
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = copied(Path(name))
        for path in dict.fromkeys(mutant.path for mutant in chosen):
            if not tests_pass(folder, TESTS[path]):
                raise RuntimeError(f"{TESTS[path]} fail without any change")
        for mutant in chosen:
            start = time.perf_counter()
            alive = survives(mutant, folder)
            failures += alive
            change = f"{mutant.before.strip()} -> {mutant.after.strip() or 'nothing'}".replace("\n", " ")
            verdict = "SURVIVED" if alive else "killed"
            print(f"{verdict:<9}{time.perf_counter() - start:5.0f} s  {mutant.path}: {change}", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} mutants killed")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
