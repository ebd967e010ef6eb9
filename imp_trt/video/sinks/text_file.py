# SPDX-License-Identifier: Apache-2.0
"""Text file that is written piece by piece and never holds half of one."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterator
from pathlib import Path

from imp_trt.data.files import make_folder, unwritable
from imp_trt.data.locks import only_temporary_beside
from imp_trt.errors import OutputError

REPLACES_AFTER_S = 2.0
"""How long a new file is written before it replaces an earlier one: a run may fail at once."""

_PART = 1 << 20


class TextFile:
    """UTF-8 text file whose pieces are given to the operating system at once.

    Calls of write() are atomic: after a failed one, or if the process is killed, the file holds the text of
    those before it.

    Args:
        path: final path. Missing folders are created. An unwritable path raises immediately.
        named: the file gets its name with the first piece, or REPLACES_AFTER_S later if an earlier file has
            it; False: with commit().

    Attributes:
        done: committed or discarded.

    Raises:
        OutputError: the path cannot be written, or another TextFile, in this process or another, is writing
            it. The methods raise it too, for example on a full disk.
    """

    def __init__(self, path: Path, *, named: bool = False) -> None:
        self._path = path
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
        self.done = False

    def write(self, text: str) -> None:
        """Append text."""
        if self.done:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        before = self._file.tell()
        try:
            try:
                rest = memoryview(text.encode())
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(before)
                self._file.seek(before)
                raise
            if self._name_early and not self._named and self._may_replace():
                self._take_name()
        except OSError as error:
            raise unwritable(self._path, error) from error

    def parts(self) -> Iterator[str]:
        """Iterate over the text written so far, in parts."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        at = 0
        try:
            while part := os.pread(self._file.fileno(), _PART, at):
                at += len(part)
                yield decoder.decode(part)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        """Sync the text to disk and give the file its name. Idempotent."""
        if self.done:
            return
        try:
            os.fsync(self._file.fileno())
            self._take_name()
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self._end()

    def discard(self) -> None:
        """Remove the file unless it has its name. Idempotent, never raises OSError."""
        if not self.done:
            self._end()

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
