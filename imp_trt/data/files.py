"""Writing files so that a reader sees a whole file or none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imp_trt.errors import OutputError


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A name in path's folder that does not exist yet; what is written there is gone afterwards.

    Rename it to path to keep it. The suffix is path's own, because some writers choose the format by
    it. The file is removed on every way out, KeyboardInterrupt included.
    """
    temporary = path.with_name(f".{path.stem[:64]}.{secrets.token_hex(8)}.tmp{path.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_and_sync(path: Path, data: bytes) -> None:
    """Write data to a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: str | os.PathLike[str], data: bytes, *, sync: bool = True) -> Path:
    """Write data to path: the whole of it or nothing, whatever happens. Missing folders are made.

    Args:
        sync: wait until the data is on the disk; without, a power cut may undo the write.

    Raises:
        OutputError: the folder is not writable or full.
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
    """Make a folder and its parents; OutputError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(path: Path, error: OSError) -> OutputError:
    """What to raise when the system refuses to write to path."""
    return OutputError(
        f"{path} cannot be written", got=error.strerror or error, fix="choose another path, or make room"
    )
