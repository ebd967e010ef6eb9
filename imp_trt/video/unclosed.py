# SPDX-License-Identifier: Apache-2.0
"""Outputs that a program forgets to close are ended when they are dropped, or when the process ends."""

from __future__ import annotations

import atexit
from contextlib import suppress
from threading import Thread, current_thread, main_thread
from weakref import WeakSet


class EndedIfDropped:
    """Base class of an output whose last part would be missing without its end."""

    _user: Thread | None = None

    def _in_use(self) -> None:
        """Note that the current thread writes to it."""
        if self._user is None:
            _open.add(self)
        self._user = current_thread()

    def end_if_open(self) -> None:
        """End it unless it is closed, aborted, or that of the process that forked this one."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self._user is not None:
            with suppress(Exception):
                self.end_if_open()


_open: WeakSet[EndedIfDropped] = WeakSet()


def _end_all() -> None:
    for output in list(_open):
        user = output._user
        # An exit handler that runs later may wait for the thread, which ends its outputs itself.
        if user is main_thread() or (user is not None and not user.is_alive()):
            with suppress(Exception):
                output.end_if_open()


atexit.register(_end_all)
