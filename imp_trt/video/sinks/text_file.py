"""A text file that grows line by line and appears when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from imp_trt.errors import OutputError
from imp_trt.files import make_folder, temporary_beside, unwritable

_PART = 1 << 20


class TextFile:
    """UTF-8 text written under another name and put in place by commit().

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
            self._file = self._temporary.__enter__().open("x+", encoding="utf-8")
        except OSError as error:
            raise unwritable(path, error) from error
        self.done = False

    def write(self, text: str) -> None:
        """Append text."""
        if self.done:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        try:
            self._file.write(text)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def parts(self) -> Iterator[str]:
        """What was written so far, in parts."""
        try:
            self._file.seek(0)
            while part := self._file.read(_PART):
                yield part
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        """Wait until the text is on the disk, and put the file in place. Idempotent."""
        if self.done:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._file.name, self._path)
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the file that is not in place yet. Idempotent, never raises."""
        if self.done:
            return
        self.done = True
        try:
            self._file.close()  # writes what is buffered, which a full disk refuses
        except OSError:
            pass
        finally:
            self._temporary.__exit__(None, None, None)
