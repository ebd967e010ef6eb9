# SPDX-License-Identifier: Apache-2.0
"""Cells of the matrix: a version of the bindings with a NumPy, run in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from imp_trt.export.tensorrt.builder import rtx_environment
from tests.support import bindings_build, bindings_cell, bindings_env, bindings_stub

_WITHOUT_CASES = ("import", "register", "api")
_TIMEOUT = 600


class Outcome(NamedTuple):
    """Of a step with a case; error is None where it passed."""

    step: str
    case: str
    error: str | None
    note: str = ""


def run_plugins(version: str, numpy: str, folders: Sequence[Path]) -> list[Outcome]:
    """The plugins' life on the stand-in, for folders of tests.support.plugin_cases. Raises Unavailable."""
    major = bindings_env.major_of(version)
    libraries = bindings_stub.build_stand_in(bindings_env.cache() / "libraries", major)
    environment = bindings_env.environment(version, numpy, libraries)
    wanted = [
        (step, case)
        for step in bindings_cell.STEPS
        for case in ([""] if step in _WITHOUT_CASES else [folder.name for folder in folders])
    ]
    library = libraries / f"libnvinfer.so.{major}"
    with tempfile.TemporaryDirectory() as name:
        results = Path(name) / "results"
        arguments = [version, numpy, results, library, *folders]
        return _run("tests.support.bindings_cell", arguments, environment, results, wanted)


def can_build(version: str) -> str | None:
    """None, or why no engine can be built with a version."""
    if bindings_env.major_of(version) < 11:
        return "TensorRT-RTX has the interfaces of TensorRT 11"
    return None if find_spec("tensorrt_rtx_libs") else "needs the package tensorrt-rtx"


def run_builds(version: str, numpy: str, folders: Sequence[Path]) -> list[Outcome]:
    """Engines of models that bindings_build.write_model wrote, with TensorRT 11. Raises Unavailable."""
    reason = can_build(version)
    assert reason is None, f"{version}: {reason}"
    libraries = bindings_stub.build_forward(bindings_env.cache() / "libraries")
    environment = bindings_env.environment(version, numpy, libraries)
    spec = find_spec("tensorrt_rtx_libs")
    assert spec is not None
    assert spec.origin is not None
    wanted = [(bindings_build.STEP, case) for folder in folders for case in bindings_build.cases(folder)]
    with tempfile.TemporaryDirectory() as name:
        paths = [environment["LD_LIBRARY_PATH"], str(Path(spec.origin).parent)]
        paths.append(rtx_environment(Path(name))["LD_LIBRARY_PATH"])
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        results = Path(name) / "results"
        arguments = [version, results, *folders]
        return _run("tests.support.bindings_build", arguments, environment, results, wanted)


def _run(
    module: str,
    arguments: Sequence[object],
    environment: dict[str, str],
    results: Path,
    wanted: list[tuple[str, str]],
) -> list[Outcome]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    results.touch()
    child = subprocess.Popen(
        command,
        cwd=bindings_env.ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a build has a process of its own below this one
    )
    try:
        _, log = child.communicate(timeout=_TIMEOUT)
        ending = _ending(child.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        _, log = child.communicate()
        ending = f"after {_TIMEOUT} s"
    lines = [Outcome(**json.loads(line)) for line in results.read_text().splitlines()]
    found = {(one.step, one.case): one for one in lines}
    assert set(found) <= set(wanted), set(found) - set(wanted)
    ended = f"the process ended before ({ending}): {log[-2000:]}"
    return [found.get(one) or Outcome(*one, ended) for one in wanted]


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def skip_or_fail(error: bindings_env.Unavailable) -> NoReturn:
    """Skips a test whose wheels cannot be had; in CI (CI=true) an index out of reach is a failure."""
    if not error.excusable and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(str(error))
    pytest.skip(str(error))
