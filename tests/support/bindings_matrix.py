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
from typing import NamedTuple

import pytest

from imp_trt.export.builder import rtx_environment
from tests.support import bindings_build, bindings_cell, bindings_env, bindings_stub

_WITHOUT_CASES = ("import", "register", "api")
_TIMEOUT = 600


class Outcome(NamedTuple):
    """Of a step with a case; error is None where it passed."""

    step: str
    case: str
    error: str | None


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
        return _run("tests.support.bindings_build", [version, results, *folders], environment, results, wanted)


def _run(
    module: str,
    arguments: Sequence[object],
    environment: dict[str, str],
    results: Path,
    wanted: list[tuple[str, str]],
) -> list[Outcome]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    results.touch()
    done = subprocess.run(
        command,
        cwd=bindings_env.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT,
        check=False,
    )
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    found = {(line["step"], line["case"]): line["error"] for line in lines}
    ended = f"the process ended before ({_ending(done.returncode)}): {done.stderr[-2000:]}"
    assert set(found) <= set(wanted), set(found) - set(wanted)
    return [Outcome(*one, found.get(one, ended)) for one in wanted]


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def skip_or_fail(error: bindings_env.Unavailable) -> None:
    """Skips a test whose wheels cannot be had; where tests count (CI=true) an index out of reach is a failure."""
    if not error.excusable and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(str(error))
    pytest.skip(str(error))
