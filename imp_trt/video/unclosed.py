# SPDX-License-Identifier: Apache-2.0
"""Outputs that a program forgets to close are ended when they are dropped, or when the process ends."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from threading import RLock, Thread, current_thread, main_thread
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakSet

from imp_trt.data.native_calls import call_after_fork

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Output = TypeVar("_Output", bound="EndedIfDropped")


class EndedIfDropped:
    """Base class of an output whose last part would be missing without its end.

    Methods that are decorated with :func:`exclusive` run one after the other, also in several threads.
    """

    _user: Thread | None = None

    def __new__(cls: type[_Output], *_: object, **__: object) -> _Output:
        """Needs no call of ``__init__``."""
        self = object.__new__(cls)
        self._lock = RLock()
        call_after_fork(self)
        return self

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: another thread may have held the lock."""
        self._lock = RLock()

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


def exclusive(method: Callable[Concatenate[_Output, _P], _R]) -> Callable[Concatenate[_Output, _P], _R]:
    """Decorator: the method waits for others of its object, such as close() for a write in another thread."""

    @wraps(method)
    def wrapper(self: _Output, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        with self._lock:
            return method(self, *arguments, **options)

    return wrapper


_open: WeakSet[EndedIfDropped] = WeakSet()


def _end_all() -> None:
    for output in list(_open):
        user = output._user
        # An exit handler that runs later may wait for the thread, which ends its outputs itself.
        if user is main_thread() or (user is not None and not user.is_alive()):
            with suppress(Exception):
                output.end_if_open()


atexit.register(_end_all)
