"""Public names of a package, listed in its stub and fetched on first use (SPEC 1 of Scientific Python).

The stubs are those of the library lazy-loader, which is not used because a checkout must import on a machine
where nothing can be installed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def attach_stub(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its ``__name__``.
        file: its ``__file__``; the stub ``__init__.pyi`` beside it has lines ``from .module import x as x``.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    home = {alias.name: f".{node.module}" for node in imports for alias in node.names}
    names = sorted(home)

    def get(name: str) -> Any:
        if name in home:
            return getattr(import_module(home[name], package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: names, names
