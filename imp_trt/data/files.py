# SPDX-License-Identifier: Apache-2.0
"""Atomic file writes."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.errors import OutputError


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A new temporary path in the folder of ``path``; removed on exit, including on KeyboardInterrupt.

    Rename it to ``path`` to keep the file. It has the suffix of ``path``, since some writers choose the
    format by it.
    """
    temporary = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write data to a new file and fsync it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> Path:
    """Write data to path atomically. Missing folders are created.

    Args:
        path: file to write; replaced if it exists.
        data: content.
        sync: fsync the file; otherwise a power failure may lose the write.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            if sync:
                write_and_sync(temporary, data)
            else:
                temporary.write_bytes(data)
            os.replace(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def make_folder(folder: Path) -> None:
    """Create a folder and its parents; OutputError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """The OutputError for a failed write to path."""
    return OutputError(
        f"{path} cannot be written",
        got=error.strerror or error,
        fix="choose another path, or free disk space",
    )
