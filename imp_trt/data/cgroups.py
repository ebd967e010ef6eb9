# SPDX-License-Identifier: Apache-2.0
"""The cgroups of this process, which limit its CPU time and memory in containers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc/self")


def cgroup_folders(controller: str, proc: Path = PROC) -> Iterator[Path]:
    """Folders of the cgroups of a controller, of versions 1 and 2, innermost first.

    Args:
        controller: such as cpu or memory; version 2 has one folder for all.
        proc: folder of the process with the files cgroup and mountinfo; another one in tests.

    Raises:
        OSError, ValueError, IndexError: the files of proc cannot be read, or are of another form.
    """
    mounts: dict[bool, tuple[str, Path]] = {}  # whether version 2 -> root, mount point
    for line in (proc / "mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ")[:3]
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
            root, point = mount.split(" ")[3:5]
            mounts[kind == "cgroup2"] = root, Path(point)
    for line in (proc / "cgroup").read_text().splitlines():
        number, controllers, name = line.split(":", 2)
        version_2 = number == "0"
        if version_2 in mounts and (version_2 or controller in controllers.split(",")):
            root, top = mounts[version_2]
            path = PurePosixPath(name)
            # In a container the root of the mount may be the container's own cgroup.
            folder = top / (path.relative_to(root) if path.is_relative_to(root) else "")
            yield folder
            while folder != top:
                folder = folder.parent
                yield folder
