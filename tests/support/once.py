# SPDX-License-Identifier: Apache-2.0
"""What takes seconds to make is made once for all processes of a test run."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "IMP_TRT_TESTS_SHARED"


def share() -> None:
    """Called by the process that starts the others; the folder goes when it ends."""
    os.environ[VARIABLE] = tempfile.mkdtemp(prefix="imp_trt_tests_")
    atexit.register(shutil.rmtree, os.environ[VARIABLE], ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` filled, in this process or in another one of the run.

    A second caller waits. If make raises, the next caller tries again, in an empty folder.
    """
    home = os.environ.get(VARIABLE)
    if home is None:
        home = tempfile.mkdtemp(prefix="imp_trt_tests_")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
    folder, ready = Path(home) / name, Path(home) / f"{name}.ready"
    with _locked(Path(home) / f"{name}.lock"):
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            ready.touch()
    return folder


@contextmanager
def alone(name: str) -> Iterator[None]:
    """One process of the run at a time is in here."""
    home = os.environ.get(VARIABLE)
    if home is None:
        yield
        return
    with _locked(Path(home) / f"{name}.lock"):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
