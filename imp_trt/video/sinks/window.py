# SPDX-License-Identifier: Apache-2.0
"""Sink that shows overlays in a window without blocking the run."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from imp_trt.data.child_modules import importing_this_package
from imp_trt.errors import OutputError, printable
from imp_trt.video.sinks.sink import BaseSink, SegmentedFrame

VIEWER = (sys.executable, "-m", "imp_trt.video.sinks.viewer")

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_TIMEOUT_S = 1.0


class Window(BaseSink):
    """Shows overlays in one window per source. Pressing q or Escape, or closing a window, stops the run.

    A separate process shows the windows. It gets the next overlay after it has shown the last one; overlays
    in between are skipped.

    Args:
        title: of the windows.
        viewer: command of the viewer process, see :mod:`imp_trt.video.sinks.viewer`.

    Raises:
        OutputError: there is no display, or OpenCV was built without windows.
    """

    draws = True

    def __init__(self, title: str = "imp-trt (q quits)", *, viewer: Sequence[str] = VIEWER) -> None:
        self._title = title
        self._command = list(viewer)
        self._viewer: _Viewer | None = None
        self._done = False

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if self._done:
            raise OutputError("the window is closed")
        if self._viewer is None:
            if sys.platform.startswith("linux") and not any(os.environ.get(name) for name in _DISPLAYS):
                raise OutputError(
                    "no window can be opened",
                    expected=f"one of {', '.join(_DISPLAYS)}",
                    fix="pass --headless",
                )
            self._viewer = _Viewer(self._command)
        ready = self._viewer.poll()
        if ready:
            self._viewer.send(f"{item.source} - {self._title}" if item.source else self._title, item.overlay)
        return ready is not None

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        self._done = True
        viewer, self._viewer = self._viewer, None
        if viewer is not None:
            viewer.end()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self.close()


class _Viewer:
    """The viewer process and the pipes to its standard input and output."""

    def __init__(self, command: Sequence[str]) -> None:
        child_stdin, self._input = os.pipe()
        self._output, child_stdout = os.pipe()
        self._stderr = tempfile.TemporaryFile()
        self._received = b""
        try:
            # In a new session, so that Ctrl-C reaches only the run, which then closes the window.
            self.process = subprocess.Popen(
                command,
                stdin=child_stdin,
                stdout=child_stdout,
                stderr=self._stderr,
                env=importing_this_package(os.environ) | {"QT_LOGGING_RULES": "*=false"},
                start_new_session=True,
            )
        except BaseException:
            os.close(self._input)
            os.close(self._output)
            raise
        finally:
            os.close(child_stdin)
            os.close(child_stdout)
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)

    def poll(self) -> bool | None:
        """Whether the viewer is ready for an image; None if the user closed a window.

        Raises:
            OutputError: the viewer has exited.
        """
        ended = False
        with suppress(BlockingIOError):  # no more data at the moment
            while part := os.read(self._output, 4096):
                self._received += part
            ended = True
        words = self._received.split()
        if b"quit" in words:
            return None
        if ended:
            raise OutputError("no window can be opened", got=self._exit_reason(), fix="pass --headless")
        if b"ready" not in words:
            return False
        self._received = b""
        return True

    def send(self, title: str, image: NDArray[np.uint8]) -> None:
        """Send an image [h, w, 3] uint8 BGR; the viewer must be ready.

        Raises:
            OutputError: the viewer does not read.
        """
        from imp_trt.video.sinks.viewer import HEADER

        name = printable(title).encode()
        header = HEADER.pack(len(name), image.shape[0], image.shape[1])
        writable = select.poll()
        writable.register(self._input, select.POLLOUT)
        for data in (memoryview(header + name), np.ascontiguousarray(image).data.cast("B")):
            while data:
                if not writable.poll(_TIMEOUT_S * 1e3):
                    raise OutputError("the window does not respond", got=f"no response for {_TIMEOUT_S:g} s")
                try:
                    data = data[os.write(self._input, data) :]
                except BrokenPipeError:  # the next poll() reports why the viewer exited
                    return

    def end(self) -> None:
        """End the process by closing its input; kill it if it does not exit."""
        os.close(self._input)
        os.close(self._output)
        try:
            self.process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._stderr.close()

    def _exit_reason(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_TIMEOUT_S)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"a viewer that exited with code {self.process.poll()}"
