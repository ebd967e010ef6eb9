"""A window on the desk, which never holds up the run."""

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

from imp_trt.errors import OutputError
from imp_trt.video.sinks.sink import Base, Segmented

VIEWER = (sys.executable, "-m", "imp_trt.video.sinks.viewer")

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_TIMEOUT_S = 1.0


class Window(Base):
    """Overlays in a window, one for each source; q or Escape, or closing one, asks to stop.

    A process of its own shows them. It gets a new overlay when it has shown the last one; those that come
    meanwhile are left out.

    Args:
        viewer: command of that process, see :mod:`imp_trt.video.sinks.viewer`.

    Raises:
        OutputError: there is no display, or OpenCV was built without windows.
    """

    draws = True

    def __init__(self, title: str = "imp-trt (q quits)", *, viewer: Sequence[str] = VIEWER) -> None:
        self._title = title
        self._command = list(viewer)
        self._viewer: _Viewer | None = None
        self._done = False

    def write(self, item: Segmented) -> bool:
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
        ready = self._viewer.listen()
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
    """The process, and the two pipes that lead to it and back."""

    def __init__(self, command: Sequence[str]) -> None:
        its_input, self._input = os.pipe()
        self._output, its_output = os.pipe()
        self._complaints = tempfile.TemporaryFile()
        self._said = b""
        try:
            # A session of its own: Ctrl-C is for the run, which then closes the window.
            self.process = subprocess.Popen(
                command,
                stdin=its_input,
                stdout=its_output,
                stderr=self._complaints,
                env=os.environ | {"QT_LOGGING_RULES": "*=false"},
                start_new_session=True,
            )
        except BaseException:
            os.close(self._input)
            os.close(self._output)
            raise
        finally:
            os.close(its_input)
            os.close(its_output)
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)

    def listen(self) -> bool | None:
        """Whether it waits for a picture; None when the user has had enough.

        Raises:
            OutputError: it has ended by itself.
        """
        ended = False
        with suppress(BlockingIOError):  # nothing more to hear yet
            while part := os.read(self._output, 4096):
                self._said += part
            ended = True
        words = self._said.split()
        if b"quit" in words:
            return None
        if ended:
            raise OutputError("no window can be opened", got=self._last_words(), fix="pass --headless")
        if b"ready" not in words:
            return False
        self._said = b""
        return True

    def send(self, title: str, picture: NDArray[np.uint8]) -> None:
        """Give it a picture [h, w, 3] uint8 BGR; it must be waiting for one.

        Raises:
            OutputError: it stopped reading.
        """
        from imp_trt.video.sinks.viewer import HEADER

        name = title.encode()
        header = HEADER.pack(len(name), picture.shape[0], picture.shape[1])
        room = select.poll()
        room.register(self._input, select.POLLOUT)
        for data in (memoryview(header + name), np.ascontiguousarray(picture).data.cast("B")):
            while data:
                if not room.poll(_TIMEOUT_S * 1e3):
                    raise OutputError("the window hangs", got=f"no answer for {_TIMEOUT_S:g} s")
                try:
                    data = data[os.write(self._input, data) :]
                except BrokenPipeError:  # why it ended shows when it is listened to next
                    return

    def end(self) -> None:
        """End the process: its input ends, which it should heed."""
        os.close(self._input)
        os.close(self._output)
        try:
            self.process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._complaints.close()

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_TIMEOUT_S)
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"a viewer that ended with code {self.process.poll()}"
