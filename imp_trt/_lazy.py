# SPDX-License-Identifier: Apache-2.0
"""Public names of a package, listed in its stub and imported on first use (SPEC 1 of Scientific Python).

The stubs are those of the library lazy-loader, which is not used because a checkout must import on a machine
where nothing can be installed.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import get_data
from typing import Any

from imp_trt.errors import DependencyMissing


def attach_stub(
    package: str, file: str, deprecated: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    Args:
        package: its ``__name__``.
        file: its ``__file__``; the stub ``__init__.pyi`` in the same folder has lines
            ``from .module import x as x``.
        deprecated: old public name -> public name that replaces it. The old name still works, warns with
            DeprecationWarning when used, and is in neither ``__dir__`` nor ``__all__``. For type checkers
            the stub has a line ``Old = New``.
    """
    # By the loader: the package may be in a zip file.
    stub = ast.parse(get_data(package, f"{Path(file).stem}.pyi") or b"")
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: f".{node.module}" for node in imports for alias in node.names}
    names = sorted(modules)
    renamed = dict(deprecated or {})
    for old, new in renamed.items():
        if old in modules or new not in modules:
            raise ValueError(f"{package}: cannot deprecate {old!r} in favor of {new!r}")

    # The type of an attribute is in the stub; here it can be anything.
    def get(name: str) -> Any:
        if name in renamed:
            # Level 2 is the caller's line, also for `from package import name`: the warnings module
            # skips the frames of the import system.
            message = f"{package}.{name} is deprecated, use {package}.{renamed[name]}"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            name = renamed[name]
        if name in modules:
            try:
                return getattr(import_module(modules[name], package), name)
            except ModuleNotFoundError as error:
                if error.name != "cv2":
                    raise
                raise DependencyMissing(
                    f"{package}.{name} needs OpenCV",
                    got=error,
                    fix="pip install 'imp-trt[onnx]', or opencv-python-headless",
                ) from error
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: names, names
