# SPDX-License-Identifier: Apache-2.0
"""Memory that this process may still use; where the system or a container has none left, it is killed."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imp_trt.data.cgroups import PROC, cgroup_folders

MEMORY_FIX = "free memory, or raise the limit of the process or container"

_LITTLE = 1 << 28  # less than a video decoder with its threads uses
_SMALL = 1 << 24  # not worth the look: 0.2 ms
_UNLIMITED = 1 << 60  # version 1 writes a number near 2**63


def free_memory(proc: Path = PROC) -> int | None:
    """Bytes that this process can still allocate without being killed or refused; None if unknown.

    The least of what the system has available, what the memory cgroups leave, and ``ulimit -v`` and ``-d``.

    Args:
        proc: folder of the process; another one in tests.
    """
    left: list[int] = []
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in (proc.parent / "meminfo").read_text().splitlines())
        sizes = {words[0]: int(words[1]) << 10 for words in lines}
        left.append(sizes["MemAvailable:"] + sizes.get("SwapFree:", 0))
    with suppress(OSError, ValueError, IndexError):
        for folder in cgroup_folders("memory", proc):
            left += _left_in(folder)
    with suppress(OSError, ValueError, IndexError):
        pages = [int(word) for word in (proc / "statm").read_text().split()]
        for limit, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
            soft = resource.getrlimit(limit)[0]
            if soft != resource.RLIM_INFINITY:
                left.append(soft - used * resource.getpagesize())
    return max(0, min(left)) if left else None


def check_memory(size: int, what: str) -> None:
    """OSError (ENOMEM) if ``size`` bytes, for what the message calls ``what``, are more than are free."""
    free = free_memory() if size > _SMALL else None
    if free is not None and size > free:
        raise OSError(
            errno.ENOMEM,
            f"too little memory for {what}: about {_megabytes(size)} needed, {_megabytes(free)} free",
        )


def memory_is_short() -> bool:
    """Whether so little is free that libraries fail to load or to decode; they do not name the reason."""
    free = free_memory()
    return free is not None and free < _LITTLE


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _left_in(folder: Path) -> Iterator[int]:
    """What one cgroup leaves, if it has a limit; its file cache is given back when memory is needed."""
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):
            most = int((folder / limit).read_text())  # "max" without a limit
            if most < _UNLIMITED:
                words = (folder / "memory.stat").read_text().split()
                reclaimable = int(words[words.index(cache) + 1])
                yield most - int((folder / used).read_text()) + reclaimable
