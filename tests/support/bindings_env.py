# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's Python bindings and NumPy in folders of their own, and the environment of a process with them.

Wheels are installed once, without what they depend on, below $IMP_TRT_TEST_CACHE or ~/.cache/imp_trt/tests.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.support.plugin_build import ROOT

VERSIONS = (
    "10.3.0",
    "10.7.0",
    "10.9.0.34",
    "10.13.3.9",
    "10.15.1.29",
    "10.16.1.11",
    "11.0.0.114",
    "11.4.0.106",
)
"""Of the bindings, oldest supported to newest."""

NUMPYS = ("1.26.4", "2")
""""2" is the environment's own if that is NumPy 2."""

_ALIAS = """
from tensorrt_bindings import *
from tensorrt_bindings import __version__
"""
_NO_LIBRARIES = "# Empty, so that the bindings do not load the libraries of an installed TensorRT.\n"
_PYTHON = f"cp{sys.version_info[0]}{sys.version_info[1]}"


class Unavailable(Exception):
    """A wheel cannot be had; the text says why.

    Attributes:
        excusable: there is none for this Python, and that will not change; else the index was not reached.
    """

    def __init__(self, reason: str, excusable: bool) -> None:
        super().__init__(reason)
        self.excusable = excusable


_unreachable: list[Unavailable] = []  # the first that failed in this process


def cache() -> Path:
    return Path(os.environ.get("IMP_TRT_TEST_CACHE") or Path.home() / ".cache/imp_trt/tests")


def major_of(version: str) -> int:
    return int(version.split(".")[0])


def bindings(version: str) -> Path:
    """Folder with the package ``tensorrt`` of a version. Raises Unavailable."""
    cuda = "cu12" if major_of(version) == 10 else "cu13"
    folder = _installed(f"tensorrt-{cuda}-bindings", version)
    for name, text in (("tensorrt", _ALIAS), ("tensorrt_libs", _NO_LIBRARIES)):
        if not (folder / name).is_dir():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "__init__.py").write_text(text)
    return folder


def numpy(version: str) -> Path | None:
    """Folder with a NumPy, or None for the environment's own. Raises Unavailable."""
    if version == "2":
        return None if np.__version__.startswith("2.") else _installed("numpy", "2.2.6")
    return _installed("numpy", version)


def environment(version: str, numpy_version: str, libraries: Path) -> dict[str, str]:
    """Of a process that imports a version of ``tensorrt`` over a folder of libraries. Raises Unavailable."""
    folders = [bindings(version), numpy(numpy_version), ROOT]
    variables = dict(os.environ)
    variables["PYTHONPATH"] = _joined([*filter(None, folders)], variables.get("PYTHONPATH"))
    variables["LD_LIBRARY_PATH"] = _joined([libraries], variables.get("LD_LIBRARY_PATH"))
    variables.pop("IMP_TRT_PLUGIN_LIBRARY", None)
    return variables


def _joined(folders: list[Path], rest: str | None) -> str:
    return os.pathsep.join([*map(str, folders), *([rest] if rest else [])])


def _installed(package: str, version: str) -> Path:
    target = cache() / _PYTHON / f"{package}-{version}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    if _unreachable:
        raise _unreachable[0]  # once is slow enough
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        made = Path(name) / "made"
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "2"]
        command += ["--no-deps", "--only-binary=:all:", "--target", str(made), f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise _unavailable(package, version, done.stdout + done.stderr)
        try:
            os.rename(made, target)
        except OSError:  # another process was faster
            if not target.is_dir():
                raise
    return target


def _unavailable(package: str, version: str, output: str) -> Unavailable:
    # pip lists the versions that there are for this Python; an index that it cannot reach has none.
    listed = re.search(r"\(from versions: (.+)\)", output)
    if listed is not None and listed[1] != "none":
        where = f"{_PYTHON} on {platform.machine()}"
        return Unavailable(f"{package} {version} has no wheel for {where}", excusable=True)
    last = [line for line in output.splitlines() if line.strip()][-1:]
    _unreachable.append(
        Unavailable(f"{package} {version} cannot be fetched: {''.join(last)}", excusable=False)
    )
    return _unreachable[0]
