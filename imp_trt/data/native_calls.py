# SPDX-License-Identifier: Apache-2.0
"""Calls into native libraries, kept apart from a fork and from the end of the process.

Backends, and whatever else calls OpenCV or FFmpeg, does so within :func:`native_call`. A process forks, and
ends, only between such calls:

- A child that is forked during a call inherits the library's locks as they are then, held by threads that it
  does not have, and waits forever. So a fork waits for the calls under way, and later calls for the fork.
  OpenCV's own threads may hold its locks between calls too: they are stopped before a fork, and a child has
  none (``cv2.setNumThreads`` gives it some).
- A daemon thread that returns from C++ while Python ends is ended within the C++ code, which aborts the
  process. So the exit waits for the calls under way, and later calls of such threads wait for the end. If it
  does not come, an exit handler may be waiting for the thread: after END_WITHIN_S calls go on.

Reads of cameras and streams take as long as the device or the server lets them: see :func:`waiting_call`.

What a child does with a network that it inherits is up to its backend: see :class:`Inherited`.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Protocol
from weakref import WeakSet

from imp_trt.errors import InvalidInput

LONGEST_CALL_S = 60.0
"""A fork or an exit that waited this long goes on: the call hangs."""

LONGEST_WAIT_S = 6.0
"""As LONGEST_CALL_S, for waiting_call: longer than the timeout of OpenCV for streams, 5 s."""

END_WITHIN_S = 2.0
"""How long calls wait for the end of the process, once those that were under way are done."""

_POLL_S = 0.1


class Inherited(Protocol):
    """An object that a forked process must treat differently."""

    def after_fork(self) -> None:
        """Called in the child, in its only thread, before any other of its code. Takes no lock."""
        ...


class _Gate:
    """Counts the threads within native calls, and can be shut."""

    def __init__(self) -> None:
        # No Ctrl-C comes between the acquisition of a lock and the body of its "with". One comes there with a
        # condition, whose methods are written in Python: the lock would be held forever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside: dict[int, int] = {}  # thread -> nested calls
        self._shut_by: list[int] = []  # threads that fork or end the process
        self._open_again_s = math.inf  # by time.monotonic(), if the process has not ended by then

    def depth(self) -> int:
        """Number of nested calls that this thread is in."""
        return self._inside.get(threading.get_ident(), 0)

    def enter(self, wait: bool = True) -> bool:
        """Go in; False if the gate is shut and the caller does not wait."""
        thread = threading.get_ident()
        with self._lock:
            while self._is_shut() and thread not in self._inside and thread not in self._shut_by:
                if not wait:
                    return False
                self._changed.wait(_POLL_S)
            self._inside[thread] = self._inside.get(thread, 0) + 1
        return True

    def leave(self, depth: int) -> None:
        """Be in this many calls; can be repeated after an interrupt."""
        thread = threading.get_ident()
        with self._lock:
            if depth:
                self._inside[thread] = depth
            else:
                self._inside.pop(thread, None)
                self._changed.notify_all()

    def wait_until_open(self) -> None:
        with self._lock:
            while self._is_shut():
                self._changed.wait(_POLL_S)

    def _is_shut(self) -> bool:
        return bool(self._shut_by) and time.monotonic() < self._open_again_s

    def shut(self, limit_s: float | None = None) -> None:
        """Let no other thread in, and wait until all are out; limit_s: LONGEST_CALL_S by default."""
        with self._lock:
            self._shut_by.append(threading.get_ident())
            # Those who shut it themselves do not wait for each other.
            limit_s = LONGEST_CALL_S if limit_s is None else limit_s
            self._changed.wait_for(lambda: not (self._inside.keys() - self._shut_by), limit_s)

    def shut_at_exit(self, limit_s: float | None = None) -> None:
        """As shut(), for END_WITHIN_S."""
        self.shut(limit_s)
        self._open_again_s = time.monotonic() + END_WITHIN_S

    def open(self) -> None:
        with self._lock:
            self._shut_by.remove(threading.get_ident())
            self._changed.notify_all()

    def after_fork(self) -> None:
        """Forget the parent's other threads."""
        thread = threading.get_ident()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._inside = {thread: self._inside[thread]} if thread in self._inside else {}
        self._shut_by = []
        self._open_again_s = math.inf


_gate = _Gate()
_waiting = _Gate()
_forked = False
_opencv_threads = 0  # before the last fork
_inherited: WeakSet[Inherited] = WeakSet()


@contextmanager
def native_call() -> Iterator[None]:
    """Within it the process neither forks nor ends. May be nested; also a decorator, ``@native_call()``.

    Not for code that waits for other threads, which may have to wait for the fork.
    """
    depth = _gate.depth()
    try:
        _gate.enter()
        yield
    finally:
        try:
            _gate.leave(depth)
        except BaseException:  # Ctrl-C
            _gate.leave(depth)
            raise


@contextmanager
def waiting_call() -> Iterator[None]:
    """For a call that waits for a device or a server: an exit waits for its end, a fork does not.

    Not within native_call, for which a fork would wait.
    """
    depth = _waiting.depth()
    try:
        _waiting.enter()
        yield
    finally:
        _waiting.leave(depth)


class CallLock:
    """A lock for the calls of one network, held within :func:`native_call`; free in a forked process.

    Ctrl-C raises KeyboardInterrupt between any two steps of these methods. None of them leaves the lock held,
    with one exception that Python does not let them handle: at the start of ``__exit__``. The next call of
    that thread does then what ``__exit__`` should have done.

    Raises:
        InvalidInput: on entry, if this thread holds the lock, such as in a signal handler.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # only its owner can release it; never held twice
        self._owner: int | None = None
        self._depth = 0  # of the owner's calls before this one
        self._frame: FrameType | None = None  # of the owner's "with"
        call_after_fork(self)

    def __enter__(self) -> None:
        if self._owner == threading.get_ident():
            if _is_running(self._frame):
                raise InvalidInput(
                    "a network is called within a call of itself",
                    fix="call it after that, or in another thread",
                )
            self._leave(self._depth)
        depth = _gate.depth()
        try:
            while True:
                self._lock.acquire()
                if _gate.enter(wait=False):
                    self._depth, self._frame = depth, sys._getframe(1)
                    self._owner = threading.get_ident()
                    return
                # Not held while waiting: at the end of the process that would be forever.
                self._lock.release()
                _gate.wait_until_open()
        except BaseException:
            self._leave(depth)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        depth = self._depth
        try:
            self._leave(depth)
        except BaseException:  # Ctrl-C
            self._leave(depth)
            raise

    def _leave(self, depth: int) -> None:
        """Leave the gate and release the lock if it is this thread's; can be repeated after an interrupt."""
        _gate.leave(depth)
        if self._owner == threading.get_ident():
            self._owner = self._frame = None
        try:
            while True:
                self._lock.release()
        except RuntimeError:  # it is no longer, or never was, this thread's
            pass

    def after_fork(self) -> None:
        """See :class:`Inherited`."""
        self._lock = threading.RLock()
        if self._owner == threading.get_ident():
            self._lock.acquire()
        else:
            self._owner = self._frame = None


def _is_running(frame: FrameType | None) -> bool:
    """Whether a frame is one of the callers."""
    at: FrameType | None = sys._getframe()
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None


def call_after_fork(owner: Inherited) -> None:
    """Have owner.after_fork called in every forked process, as long as the owner lives."""
    _inherited.add(owner)
    # Before the finalizers of the owner, which weakref runs at exit: the last one registered runs first.
    atexit.unregister(_shut_at_exit)
    atexit.register(_shut_at_exit)


def raised_by(library: str, error: Exception) -> bool:
    """Whether an exception in a native call is the library's own, or a built-in one for one of C++.

    Others are of a signal handler of the program, such as one that ends a task after a time: they pass as
    they are.
    """
    origin = type(error).__module__.partition(".")[0]
    return origin in ("builtins", library) and not isinstance(error, OSError)


def never_release(handle: object) -> None:
    """Keep a native object beyond the end of Python.

    Its destructor waits for threads, or calls a device, that a forked process does not have.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


def in_forked_process() -> bool:
    """Whether this process was forked after this module was imported."""
    return _forked


def _shut_at_exit() -> None:
    _waiting.shut_at_exit(LONGEST_WAIT_S)
    _gate.shut_at_exit()


def _before_fork() -> None:
    global _opencv_threads
    _gate.shut()
    opencv = sys.modules.get("cv2")
    _opencv_threads = 0
    if opencv is not None and hasattr(opencv, "getNumThreads") and opencv.getNumThreads() > 1:
        _opencv_threads = opencv.getNumThreads()
        opencv.setNumThreads(1)


def _in_parent() -> None:
    if _opencv_threads > 1:
        sys.modules["cv2"].setNumThreads(_opencv_threads)
    _gate.open()


def _in_child() -> None:
    global _forked
    # Never collect what is garbage of the parent: a decoder's destructor waits for threads that are not here.
    gc.freeze()
    _forked = True
    _gate.after_fork()
    _waiting.after_fork()
    for owner in list(_inherited):
        owner.after_fork()


atexit.register(_shut_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
