# SPDX-License-Identifier: Apache-2.0
"""Text file that is written piece by piece and never holds half of one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

from imp_trt.data.files import fixed, is_at, make_folder, unwritable
from imp_trt.data.locks import only_temporary_beside
from imp_trt.errors import OutputError
from imp_trt.video.unclosed import EndedIfDropped, exclusive

REPLACES_AFTER_S = 2.0
"""How long a new file is written before it replaces an earlier one: a run may fail at once."""

_PART = 1 << 20

_log = logging.getLogger(__name__)


class TextFile(EndedIfDropped):
    """UTF-8 text file whose pieces are given to the operating system at once.

    Calls of write() are atomic: after a failed one, or if the process is killed, the file holds the text of
    those before it.

    Args:
        path: final path. Missing folders are created. An unwritable path raises immediately.
        named: the file gets its name with the first piece, or REPLACES_AFTER_S later if an earlier file has
            it; False: with commit().

    Attributes:
        size: of the text in bytes.
        done: committed or discarded.

    Raises:
        OutputError: the path cannot be written, or another TextFile, in this process or another, is writing
            it. The methods raise it too, for example on a full disk.
    """

    def __init__(self, path: Path, *, named: bool = False) -> None:
        path = self._path = fixed(path)
        if os.path.isdir(path):  # of a name that is too long, Path.is_dir raises an error
            raise OutputError(f"{path} cannot be written", expected="a file", got="a folder")
        make_folder(path.parent)
        self._named = False
        self._name_early = named
        self._first_s: float | None = None
        try:
            self._temporary = only_temporary_beside(path)
            self._at = self._temporary.__enter__()
            # Unbuffered: on a full disk, Python's buffer keeps its data and then fails again on close().
            self._file = self._at.open("rb+", buffering=0)
        except (OSError, ValueError) as error:
            raise unwritable(path, error) from error
        self.size = 0
        self.done = False

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: the file is the parent's, and closed here."""
        super().after_fork()
        self.done = True

    @exclusive
    def write(self, text: str) -> None:
        """Append text."""
        if self.done:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        if self._name_early:
            self._in_use()
        before = self._file.tell()
        try:
            try:
                rest = memoryview(text.encode())
                while rest:
                    rest = rest[self._file.write(rest) :]
                self.size = self._file.tell()
            except OSError:
                self._file.truncate(before)
                self._file.seek(before)
                raise
            if self._name_early and not self._named and self._may_replace():
                self._take_name()
        except OSError as error:
            raise unwritable(self._path, error) from error

    def lines(self) -> Iterator[str]:
        """Iterate over the lines written so far, without their ends."""
        at, rest = 0, b""
        try:
            while part := os.pread(self._file.fileno(), _PART, at):
                at += len(part)
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield line.decode()
        except OSError as error:
            raise unwritable(self._path, error) from error

    @exclusive
    def commit(self) -> None:
        """Sync the text to disk and give the file its name. Idempotent."""
        if self.done:
            return
        try:
            os.fsync(self._file.fileno())
            self._take_name()
            if not is_at(self._path, self._file.fileno()):
                raise OutputError(
                    f"{self._path} cannot be written", got="another program replaced, moved or removed it"
                )
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self._end()

    @exclusive
    def discard(self) -> None:
        """Remove the file unless it has its name. Idempotent, never raises OSError."""
        if not self.done:
            self._end()

    def end_if_open(self) -> None:
        """Discard it, with a warning if that loses text."""
        if not self.done:
            if not self._named:
                _log.warning("%s was not closed; the earlier file is kept", self._path)
            self.discard()

    def _may_replace(self) -> bool:
        now = time.monotonic()
        if self._first_s is None:
            self._first_s = now
        return now - self._first_s >= REPLACES_AFTER_S or not self._path.exists()

    def _take_name(self) -> None:
        if not self._named:
            os.replace(self._at, self._path)
            self._named = True

    def _end(self) -> None:
        self.done = True
        self._file.close()
        self._temporary.__exit__(None, None, None)
