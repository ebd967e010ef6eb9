# SPDX-License-Identifier: Apache-2.0
"""Packages that stand in for TensorRT in the building process, found before the installed ones."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from imp_trt.cuda.platform import installed_version

needs_rtx = pytest.mark.skipif(
    installed_version("tensorrt_rtx") is None, reason="needs the package tensorrt-rtx"
)
"""For tests whose child process uses the installed TensorRT-RTX."""


def need_rtx() -> None:
    """Skips the rest of a test that needs the installed TensorRT-RTX."""
    if installed_version("tensorrt_rtx") is None:
        pytest.skip("needs the package tensorrt-rtx")


def stub_package(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, source: str) -> Path:
    """Write a package and put its folder on PYTHONPATH, for child processes only."""
    package = folder / "stubs" / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(dedent(source))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package.parent


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
