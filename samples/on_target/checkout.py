# SPDX-License-Identifier: Apache-2.0
"""The package of this checkout, importable where imp-trt is not installed."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINKED = ("export", "plugins", "train")  # links in imp_trt/ to folders next to it

_copy: list[Path] = []


def folder() -> Path:
    """The folder to import ``imp_trt`` from: the checkout, or a copy where its symbolic links were lost."""
    if all((ROOT / "imp_trt" / name).is_dir() for name in _LINKED):
        return ROOT
    if not _copy:
        made = Path(tempfile.mkdtemp(prefix="imp_trt_"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        ignored = shutil.ignore_patterns(*_LINKED, "__pycache__")
        shutil.copytree(ROOT / "imp_trt", made / "imp_trt", ignore=ignored)
        for name in _LINKED:
            shutil.copytree(ROOT / name, made / "imp_trt" / name)
        _copy.append(made)
    return _copy[0]


def environment() -> dict[str, str]:
    """Of a child process: it imports this checkout, whatever is installed, and ``tests`` next to it."""
    paths = [str(folder()), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def use() -> None:
    """Make this process import the checkout."""
    for path in (str(ROOT), str(folder())):
        if path not in sys.path:
            sys.path.insert(0, path)
