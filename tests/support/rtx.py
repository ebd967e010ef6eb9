# SPDX-License-Identifier: Apache-2.0
"""Runs a test's function in a process of its own in which TensorRT-RTX's parser works.

The parser needs a library path that must be set before the process starts, registration lasts as long as
the process, and a crash must not take the tests with it.

    result, log = run_rtx(function, 1, "two")   # a function of an importable module; JSON in and out
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from imp_trt.export.tensorrt.builder import rtx_environment

_ROOT = Path(__file__).parents[2]
_MARK = "result of run_rtx: "


class _InTheChild:
    """The module tensorrt_rtx, imported when it is first used: the tests' own process stays without it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("tensorrt_rtx"), name)


trt: Any = _InTheChild()


class RtxRun(NamedTuple):
    """What the function returned, and everything the process wrote to stdout and stderr."""

    result: Any
    log: str


def run_rtx(
    function: Callable[..., Any],
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> RtxRun:
    """Calls a module's function in a child process; raises AssertionError with its output if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.run(
            [sys.executable, "-m", __name__, function.__module__, function.__name__, json.dumps(arguments)],
            cwd=_ROOT,
            env={**rtx_environment(Path(folder)), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    log, mark, result = child.stdout.rpartition(_MARK)
    assert child.returncode == 0, f"exit code {child.returncode}: {child.stdout}"
    assert mark, child.stdout
    return RtxRun(json.loads(result.splitlines()[0]), log)


def _main() -> None:
    module, name, arguments = sys.argv[1:]
    result = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    sys.stdout.flush()
    # One write, so that a message of TensorRT cannot come in between.
    os.write(1, f"{_MARK}{json.dumps(result)}\n".encode())
    # Without tearing down: the order in which Python destroys TensorRT's objects is not what is tested.
    os._exit(0)


if __name__ == "__main__":
    _main()
