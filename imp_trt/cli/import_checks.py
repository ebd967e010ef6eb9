# SPDX-License-Identifier: Apache-2.0
"""Whether modules can be imported, tried in child processes, since a broken library may crash or hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

from imp_trt.backends.onnxruntime_import import TELEMETRY_VARIABLE

LIGHT_TIMEOUT_S = 10.0
"""Limit for all modules of one child after the last one that answered."""

_CHILD = """
import importlib, json, os, sys
sys.modules["openvino_telemetry"] = None  # OpenVINO sends nothing without it
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
for name in sys.argv[1:]:
    print(json.dumps([name]), file=answers)
    try:
        importlib.import_module(name)
        failure = None
    except BaseException as error:
        failure = f"{type(error).__name__}: {error}"
    print(json.dumps([name, failure]), file=answers)
answers.flush()
os._exit(0)
"""

_NUMPY_1 = "compiled using NumPy 1.x"


class ImportCheck:
    """Imports modules in a child process, one after the other; a child that crashes is replaced for the rest.

    Args:
        modules: names of the modules.
        timeout_s: limit for one module.
    """

    def __init__(self, modules: Sequence[str], timeout_s: float = LIGHT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._waiting = list(modules)
        self._found: dict[str, str | None] = {}
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def result(self, deadline: float | None = None) -> dict[str, str | None]:
        """Module -> why it cannot be imported, or None if it can.

        Args:
            deadline: by time.monotonic(); modules without an answer by then are left out. None waits for all.
        """
        self._thread.join(None if deadline is None else max(0.0, deadline - monotonic()))
        self._stopped = True
        if self._child is not None:
            _kill(self._child)
        self._thread.join()
        return dict(self._found)

    def _run(self) -> None:
        while self._waiting and not self._stopped:
            self._one_child()

    def _one_child(self) -> None:
        child = self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *self._waiting],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            env={TELEMETRY_VARIABLE: "1", **os.environ},
        )
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
        reader.start()
        timer = _Timer(child, self._timeout_s)
        for line in child.stdout or ():
            timer.restart()
            with suppress(ValueError):
                name, *failure = json.loads(line)
                if failure:
                    self._waiting.remove(name)
                    self._found[name] = failure[0]
        timer.cancel()
        code = child.wait()
        reader.join(1.0)
        if self._stopped:
            return
        text = "".join(errors)
        for name, failure in self._found.items():
            # NumPy explains on stderr what the exception does not say.
            if failure and _NUMPY_1 in text and _NUMPY_1 not in failure and "numpy" in failure:
                self._found[name] = f"{failure} (a module {_NUMPY_1} cannot be run with NumPy 2)"
        if self._waiting:
            crashed = self._waiting.pop(0)
            self._found[crashed] = (
                f"the import did not finish within {self._timeout_s:g} s"
                if timer.expired
                else f"the import ended the process with {_ending(code)}"
            )


class _Timer:
    """Kills a child that does not answer for too long."""

    def __init__(self, child: subprocess.Popen[str], timeout_s: float) -> None:
        self.expired = False
        self._child, self._timeout_s = child, timeout_s
        self.restart()

    def restart(self) -> None:
        self.cancel()
        self._timer = threading.Timer(self._timeout_s, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        timer = getattr(self, "_timer", None)
        if timer is not None:
            timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        _kill(self._child)


def _kill(child: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
