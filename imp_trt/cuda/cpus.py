# SPDX-License-Identifier: Apache-2.0
"""CPUs that this process may use: fewer than the machine has under taskset, Slurm, and in containers."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from imp_trt.data.cgroups import PROC, cgroup_folders

_TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity (cpuset), at most its cgroup's quota, at least 1.

    A quota of 1.5 CPUs counts as 2, one below that as 1: with a thread more than the quota feeds, all threads
    stand still until the next period begins.
    """
    return _within_quota(len(_affinity()))


def usable_cores() -> int:
    """Physical cores among the CPUs that this process may use, at most its cgroup's quota, at least 1.

    Two threads of a network on one core share its arithmetic units, and gain nothing.
    """
    cores = set()
    for cpu in _affinity():
        try:
            cores.add(Path(_TOPOLOGY.format(cpu)).read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return _within_quota(len(cores))


def cpu_quota(proc: Path = PROC) -> float | None:
    """CPUs that the cgroup of this process, or one above it, allows per second of time; None without a limit.

    Args:
        proc: folder of the process with the files cgroup and mountinfo; another one in tests.
    """
    quotas: list[float] = []
    with suppress(OSError, ValueError, IndexError):
        for folder in cgroup_folders("cpu", proc):
            quotas += _quota(folder)
    return min(quotas, default=None)


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _within_quota(count: int) -> int:
    quota = cpu_quota()
    return max(1, count if quota is None else min(count, int(quota + 0.5)))


def _quota(folder: Path) -> list[float]:
    """The limit of one cgroup in CPUs, if it has one."""
    found = []
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()  # "max 100000" without a limit
        found.append(int(quota) / int(period))
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota_us = int((folder / "cpu.cfs_quota_us").read_text())  # -1 without a limit
        if quota_us > 0:
            found.append(quota_us / int((folder / "cpu.cfs_period_us").read_text()))
    return found
