# SPDX-License-Identifier: Apache-2.0
"""Cache of compiled kernels on disk, so that they are compiled once and not at every start.

A file is named after a hash of all that decides its content and holds a hash of that content, so an entry
is never stale and a damaged one is noticed. Any number of processes may use the folder at once. No path is
part of a name, and what is there is only read: a folder filled on another machine, with the same kind of GPU
and the same build of NVRTC, may be copied and mounted read-only.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from imp_trt.data.files import write_atomically
from imp_trt.errors import OutputError

_log = logging.getLogger(__name__)
_MAGIC = b"imp_trt kernels 1\n"
_warned: set[Path] = set()


def folder() -> Path | None:
    """The folder of the entries: below $IMP_TRT_CACHE, else $XDG_CACHE_HOME/imp_trt, else ~/.cache/imp_trt.

    None if the user has no home directory.
    """
    own = os.environ.get("IMP_TRT_CACHE")
    if own:
        return Path(own) / "kernels"
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "imp_trt" / "kernels"


def key(parts: Iterable[str]) -> str:
    """Hash of the parts, including their lengths, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def fetch(name: str, make: Callable[[], bytes]) -> bytes:
    """The entry; made and stored if it is missing or damaged. An unusable folder is not an error."""
    root = folder()
    if root is None:
        return make()
    path = root / f"{name}.bin"
    data = _read(path)
    if data is None:
        data = make()
        _write(path, data)
    return data


def _read(path: Path) -> bytes | None:
    try:
        entry = path.read_bytes()
    except OSError:
        return None
    head, digest, data = entry[: len(_MAGIC)], entry[len(_MAGIC) :][:32], entry[len(_MAGIC) + 32 :]
    if head != _MAGIC or digest != hashlib.sha256(data).digest():
        _log.info("%s is damaged and will be replaced", path)
        return None
    return data


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, _MAGIC + hashlib.sha256(data).digest() + data, sync=False)
    except OutputError as error:
        if path.parent not in _warned:
            _warned.add(path.parent)
            _log.warning("compiled kernels are not cached, each start compiles them again: %s", error)
