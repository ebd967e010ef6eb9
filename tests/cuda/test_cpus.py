# SPDX-License-Identifier: Apache-2.0
"""The CPUs that a process may use: affinity, and quotas of cgroups of both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imp_trt.cuda import cpus

MOUNT = "31 23 0:28 {root} {point} rw,relatime - {kind} {kind} rw{controller}\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process(folder: Path, cgroup: str, mountinfo: str) -> Path:
    write(folder / "proc" / "cgroup", cgroup)
    write(folder / "proc" / "mountinfo", "22 1 0:5 / /proc rw - proc proc rw\n" + mountinfo)
    return folder / "proc"


@pytest.mark.parametrize(
    ("outer", "inner", "quota"),
    [
        ("max 100000", "150000 100000", 1.5),
        ("50000 100000", "150000 100000", 0.5),
        ("200000 50000", "max 100000", 4.0),
        ("max 100000", "max 100000", None),
        ("what", "", None),
    ],
)
def test_quota_of_version_2(tmp_path: Path, outer: str, inner: str, quota: float | None) -> None:
    point = tmp_path / "cgroup"
    proc = process(tmp_path, "0::/a/b\n", MOUNT.format(root="/", point=point, kind="cgroup2", controller=""))
    write(point / "a" / "cpu.max", outer + "\n")
    write(point / "a" / "b" / "cpu.max", inner + "\n")
    assert cpus.cpu_quota(proc) == quota


@pytest.mark.parametrize("root", ["/", "/docker/0123"])
@pytest.mark.parametrize(("quota_us", "quota"), [(250000, 2.5), (-1, None)])
def test_quota_of_version_1(tmp_path: Path, root: str, quota_us: int, quota: float | None) -> None:
    # In a container with a namespace of its own the mount's root is its own cgroup.
    point = tmp_path / "cpu"
    mount = MOUNT.format(root=root, point=point, kind="cgroup", controller=",cpu,cpuacct")
    other = MOUNT.format(root="/", point=tmp_path / "memory", kind="cgroup", controller=",memory")
    proc = process(tmp_path, "4:memory:/docker/0123\n2:cpu,cpuacct:/docker/0123\n0::/\n", other + mount)
    folder = point if root != "/" else point / "docker" / "0123"
    write(folder / "cpu.cfs_quota_us", f"{quota_us}\n")
    write(folder / "cpu.cfs_period_us", "100000\n")
    assert cpus.cpu_quota(proc) == quota


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpus.cpu_quota(tmp_path) is None
    assert cpus.cpu_quota(process(tmp_path, "", "")) is None
    assert cpus.cpu_quota(process(tmp_path, "nonsense\n", "nonsense\n")) is None


@pytest.mark.parametrize(
    ("affinity", "quota", "usable"),
    [(8, None, 8), (8, 2.5, 3), (8, 2.4, 2), (2, 7.0, 2), (4, 0.2, 1), (1, None, 1)],
)
def test_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, affinity: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr(cpus, "_affinity", lambda: set(range(affinity)))
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    monkeypatch.setattr(cpus, "_TOPOLOGY", "/nowhere/{}")
    assert cpus.usable_cpus() == usable
    assert cpus.usable_cores() == usable


def test_two_threads_of_one_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(4):
        write(tmp_path / str(cpu), f"{cpu % 2},{cpu % 2 + 2}\n")
    monkeypatch.setattr(cpus, "_TOPOLOGY", str(tmp_path / "{}"))
    monkeypatch.setattr(cpus, "cpu_quota", lambda: None)
    monkeypatch.setattr(cpus, "_affinity", lambda: {0, 1, 2, 3})
    assert (cpus.usable_cpus(), cpus.usable_cores()) == (4, 2)
    monkeypatch.setattr(cpus, "_affinity", lambda: {0, 2})
    assert (cpus.usable_cpus(), cpus.usable_cores()) == (2, 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_affinity_of_the_process_counts() -> None:
    program = (
        f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n"
        "from imp_trt.cuda.cpus import usable_cores, usable_cpus\nprint(usable_cpus(), usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
