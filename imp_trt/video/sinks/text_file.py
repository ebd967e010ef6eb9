"""A text file that grows line by line and appears when it is whole."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from imp_trt.data.files import make_folder, temporary_beside, unwritable
from imp_trt.errors import OutputError

_PART = 1 << 20
_BUFFER = 1 << 16


class TextFile:
    """UTF-8 text written under another name and put in place by commit().

    It holds what whole calls of write() gave, also after one that failed.

    Args:
        path: where it goes. Missing folders are made, and an unwritable place is reported now.

    Attributes:
        done: in place, or given up.

    Raises:
        OutputError: the place cannot be written; so do the methods, e.g. when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():
            raise OutputError(f"{path} cannot be written", expected="a file", got="a folder")
        make_folder(path.parent)
        self._temporary = temporary_beside(path)
        try:
            # Unbuffered: a buffer of Python's keeps what a full disk refuses, and then cannot be closed.
            self._file = self._temporary.__enter__().open("xb+", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from error
        self._waiting = bytearray()
        self.done = False

    def write(self, text: str) -> None:
        """Append text."""
        if self.done:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        self._waiting += text.encode()
        if len(self._waiting) >= _BUFFER:
            self._flush()

    def parts(self) -> Iterator[str]:
        """What was written so far, in parts."""
        self._flush()
        decoder = codecs.getincrementaldecoder("utf-8")()
        at = 0
        try:
            while part := os.pread(self._file.fileno(), _PART, at):
                at += len(part)
                yield decoder.decode(part)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        """Wait until the text is on the disk, and put the file in place. Idempotent."""
        if self.done:
            return
        try:
            self._flush()
            os.fsync(self._file.fileno())
            os.replace(self._file.name, self._path)
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the file that is not in place yet. Idempotent, never raises."""
        if not self.done:
            self.done = True
            self._file.close()
            self._temporary.__exit__(None, None, None)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, bytearray()
        before = self._file.tell()
        try:
            rest = memoryview(waiting)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(before)
            self._file.seek(before)
            raise unwritable(self._path, error) from error
