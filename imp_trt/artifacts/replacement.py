# SPDX-License-Identifier: Apache-2.0
"""Files that belong together are replaced together, whatever ends the writing process, and whenever.

One rename, that of the main file, completes the operation. Before it, each of the other files is put under a
hidden name, where readers of the new main file find it; after it, they get their final names. A process that
is killed in between leaves hidden files: the next writer completes or undoes its work.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


def next_path(final: Path) -> Path:
    """Where a new file is kept until the main file is replaced: a hidden file."""
    return final.with_name(f".{final.name}.next")


def replace_together(main: Path, new: Mapping[Path, Path], recover: Callable[[], None]) -> None:
    """Move new files to their final paths.

    An exception before the main file is replaced undoes everything, one after it undoes nothing.

    Args:
        main: final path of the main file.
        new: final path -> complete new file in the same folder, for all files; the main one included.
        recover: completes or undoes an interrupted replacement, see :func:`finish`.
    """
    others = {final: file for final, file in new.items() if final != main}
    try:
        for final, file in others.items():
            os.replace(file, next_path(final))
        os.replace(new[main], main)
    except BaseException:
        # A signal can arrive after a rename and before it returns.
        if new[main].exists():
            finish(others, complete=False)
        else:
            recover()
        raise
    finish(others, complete=True)


def finish(others: Iterable[Path], complete: bool) -> None:
    """Give the hidden files of a replacement their final names, or remove them.

    Args:
        others: final paths of the files other than the main one; the last one marks the replacement as
            unfinished while it is hidden.
        complete: whether the main file was replaced.
    """
    for final in others:
        following = next_path(final)
        if not complete:
            following.unlink(missing_ok=True)
        elif following.exists():
            os.replace(following, final)


def file_state(path: Path) -> tuple[int, int] | None:
    """Inode and modification time of a file: they change when it is replaced. None if it is missing."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_mtime_ns


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Exclusive lock on a folder, so that of two writers of one path one wins completely."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no locks. There the last writer wins, and mixed files of two
        # simultaneous ones are rejected when they are read, because the hash does not match.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
