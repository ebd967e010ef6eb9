# SPDX-License-Identifier: Apache-2.0
"""Text file that is written incrementally and moved into place when it is complete."""

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
    """UTF-8 text file, written under a temporary name until commit().

    Calls of write() are atomic: after a failed one, the file holds the text of those before it.

    Args:
        path: final path. Missing folders are created. An unwritable path raises immediately.

    Attributes:
        done: committed or discarded.

    Raises:
        OutputError: the path cannot be written. The methods raise it too, for example on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir():
            raise OutputError(f"{path} cannot be written", expected="a file", got="a folder")
        make_folder(path.parent)
        self._temporary = temporary_beside(path)
        try:
            # Unbuffered: on a full disk, Python's buffer keeps its data and then fails again on close().
            self._file = self._temporary.__enter__().open("xb+", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from error
        self._pending = bytearray()
        self.done = False

    def write(self, text: str) -> None:
        """Append text."""
        if self.done:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        self._pending += text.encode()
        if len(self._pending) >= _BUFFER:
            self._flush()

    def parts(self) -> Iterator[str]:
        """Iterate over the text written so far, in parts."""
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
        """Sync the text to disk and move the file into place. Idempotent."""
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
        """Remove the file if it was not committed. Idempotent, never raises."""
        if not self.done:
            self.done = True
            self._file.close()
            self._temporary.__exit__(None, None, None)

    def _flush(self) -> None:
        pending, self._pending = self._pending, bytearray()
        before = self._file.tell()
        try:
            rest = memoryview(pending)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(before)
            self._file.seek(before)
            raise unwritable(self._path, error) from error
