# SPDX-License-Identifier: Apache-2.0
"""Fuzzing of everything that reads untrusted bytes.

    python -m tests.fuzz [--seconds 5] [--seed 0] [--mutator auto|seeded|atheris] [--keep FOLDER] [TARGET ...]

Each target gets mutated inputs for the given time, in a process of its own. Errors of this package are
answers; any other exception, an input that takes longer than ten seconds, or one that needs more than 2 GB is
a finding: it is kept as a file, and the exit code is 1. With atheris installed (``pip install atheris``)
inputs are chosen by the code that they reach; otherwise a seeded mutator makes the same inputs each time.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib.util
import logging
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.errors import printable
from tests.fuzz import targets

SLOW_S = 10.0
MEMORY = 2 << 30


def fuzz(name: str, seconds: float, seed: int, keep: Path) -> tuple[int, int, list[str]]:
    """Run one target with the seeded mutator.

    Returns:
        inputs tried, inputs accepted, findings.
    """
    rng = random.Random(seed)  # inputs, not secrets
    findings: dict[str, str] = {}
    tried = accepted = 0
    with tempfile.TemporaryDirectory() as folder, _silent():
        target = targets.make(name, Path(folder))
        for data in target.seeds:
            if not targets.accepts(target, data):
                raise ValueError(f"a seed of {name} is rejected")
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            data = rng.choice(target.mutators)(rng.choice(target.seeds), rng)
            start = time.perf_counter()
            tried += 1
            try:
                accepted += targets.accepts(target, data)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                text = printable(f"{type(error).__name__} in {where.name}: {error}"[:300])
                _keep(findings, keep, name, data, text)
            if time.perf_counter() - start > SLOW_S:
                _keep(findings, keep, name, data, f"{time.perf_counter() - start:.0f} s")
    return tried, accepted, list(findings.values())


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing is logged: the readers warn of thousands of inputs, in text that no test report can carry."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _keep(findings: dict[str, str], folder: Path, name: str, data: bytes, text: str) -> None:
    kind = text.split(":")[0]
    if kind not in findings:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}-{targets.digest(data)}"
        path.write_bytes(data)
        findings[kind] = f"{text} ({path})"


def fuzz_with_atheris(name: str, seconds: float, keep: Path) -> None:
    """Run one target with libFuzzer; it ends the process, with a file in keep if it found something."""
    import atheris  # type: ignore[import-not-found]

    keep.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["imp_trt", "research"]):
        for module in [m for m in sys.modules if m.startswith(("imp_trt", "tests.fuzz.targets"))]:
            del sys.modules[module]
        from tests.fuzz import targets as instrumented
    folder = Path(tempfile.mkdtemp())
    target = instrumented.make(name, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for data in target.seeds:
        (corpus / targets.digest(data)).write_bytes(data)
    arguments = [f"-max_total_time={max(1, round(seconds))}", f"-artifact_prefix={keep}/{name}-", str(corpus)]
    atheris.Setup(
        [sys.argv[0], f"-timeout={SLOW_S:.0f}", "-rss_limit_mb=4096", *arguments],
        lambda data: instrumented.accepts(target, data),
    )
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="*", choices=[*targets.NAMES, []], metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each target (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutator", choices=("auto", "seeded", "atheris"), default="auto")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="folder for findings")
    options = parser.parse_args(argv)
    names = options.target or targets.NAMES
    guided = options.mutator == "atheris" or (
        options.mutator == "auto" and importlib.util.find_spec("atheris") is not None
    )
    if len(names) > 1 or (guided and not options.target):
        return max(_in_a_process(name, options) for name in names)
    faulthandler.enable()
    if guided:
        fuzz_with_atheris(names[0], options.seconds, options.keep)
        return 0
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, before[1]))
    try:
        tried, accepted, findings = fuzz(names[0], options.seconds, options.seed, options.keep)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    print(f"{names[0]:<12} {tried:>8,} inputs, {accepted:>8,} accepted, {len(findings)} findings", flush=True)
    for finding in findings:
        print(f"  {finding}".encode("ascii", "backslashreplace").decode())
    return int(bool(findings))


def _in_a_process(name: str, options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(options.seconds)]
    command += ["--seed", str(options.seed), "--mutator", options.mutator, "--keep", str(options.keep)]
    # OpenCV and FFmpeg would report each damaged file in several lines.
    quiet = {"OPENCV_LOG_LEVEL": "SILENT", "OPENCV_FFMPEG_LOGLEVEL": "-8", **os.environ}
    return int(subprocess.run(command, env=quiet, check=False).returncode != 0)


if __name__ == "__main__":
    raise SystemExit(main())
