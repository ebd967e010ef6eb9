# SPDX-License-Identifier: Apache-2.0
"""A camera that follows a script, and a clock that is advanced by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import SourceError

Step = int | NDArray[np.uint8] | None | BaseException | Callable[[], object]


class SimulatedClock:
    """Seconds that pass by sleeping alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class ScriptedCapture:
    """One connection; has the methods of cv2.VideoCapture that sources use.

    Args:
        steps: what each read does: a gray level or image is handed over, None is a failed read, an
            exception is raised, a callable is called before the next step. After the last, reads fail.
        before_read: called before each read.
    """

    def __init__(self, steps: Sequence[Step], before_read: Callable[[], object] = lambda: None) -> None:
        self._steps = list(steps)
        self._before_read = before_read
        self.released = threading.Event()

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self._before_read()
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            if callable(step):
                step()
                continue
            if isinstance(step, int):
                step = np.full((6, 8, 3), step, np.uint8)
            return step is not None, step
        return False, None

    def get(self, prop: int, /) -> float:
        return 0.0

    def release(self) -> None:
        self.released.set()


class ScriptedCamera:
    """A factory of connections: what LiveSource calls to connect.

    Args:
        connections: the steps of each connection, or the exception that its opening raises. After the last,
            the camera is absent.
    """

    def __init__(
        self, *connections: Sequence[Step] | BaseException, before_read: Callable[[], object] = lambda: None
    ) -> None:
        self._connections = list(connections)
        self._before_read = before_read
        self.attempts = 0
        self.opened: list[ScriptedCapture] = []

    def __call__(self) -> ScriptedCapture:
        self.attempts += 1
        steps = self._connections.pop(0) if self._connections else absent()
        if isinstance(steps, BaseException):
            raise steps
        self.opened.append(ScriptedCapture(steps, self._before_read))
        return self.opened[-1]


def absent() -> SourceError:
    """What opening an unplugged camera raises."""
    return SourceError("camera /dev/video0", got="no such device")
