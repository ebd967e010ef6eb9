# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way: a package imports from layers below its own, and no circle joins two packages.

Imports within functions and for type checkers count too.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS = (
    ("errors", "classes"),
    ("_lazy",),
    ("cuda", "data"),
    ("ops", "models", "plugins", "synthetic", "weights"),
    ("artifacts", "preprocessing", "results"),
    ("backends", "metrics"),
    ("temporal",),
    ("engine", "segmenter"),
    ("export", "graph", "train", "video"),
    ("benchmark", "cli"),
    ("__main__",),
)
"""Bottom first. The public face, imp_trt itself, may name anything and imports it when it is asked for."""

DEPRECATED = {
    # Segmenter.stream("clip.mp4"), which warns: open_source(...) is passed instead.
    ("imp_trt.segmenter", "imp_trt.video"),
}

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "imp_trt" else ("imp_trt", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Modules of the package that a file names in imports and in import_module calls."""
    return {name for name in _imported(path) if name.startswith("imp_trt.")}


@cache
def _imported(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return frozenset(found)


@pytest.fixture(scope="module")
def arrows() -> dict[tuple[str, str], list[str]]:
    """(importing package, imported package) -> the imports, as "module: name"."""
    found: dict[tuple[str, str], list[str]] = {}
    for folder in ("imp_trt", "export", "train", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = module_of(path)
            for name in imported(path) if module != "imp_trt" else ():
                ends = module.split(".")[1], name.split(".")[1]
                if ends[0] != ends[1] and ends[1] in LEVEL and not _deprecated(module, name):
                    found.setdefault(ends, []).append(f"{module}: {name}")
    assert len(found) > 40
    return found


def _deprecated(module: str, name: str) -> bool:
    return any(module == a and name.startswith(b) for a, b in DEPRECATED)


def test_every_package_has_a_layer() -> None:
    folders = {p.name for p in (ROOT / "imp_trt").iterdir() if (p / "__init__.py").exists()}
    modules = {p.stem for p in (ROOT / "imp_trt").glob("*.py")} - {"__init__", "_deprecated"}
    assert folders | modules == set(LEVEL)


def test_imports_go_down(arrows: dict[tuple[str, str], list[str]]) -> None:
    upward = [imports for (a, b), imports in arrows.items() if LEVEL[a] < LEVEL[b]]
    assert not upward


def test_no_circle_joins_packages(arrows: dict[tuple[str, str], list[str]]) -> None:
    below: dict[str, set[str]] = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)
    done: set[str] = set()
    while set(LEVEL) - done:
        free = {name for name in set(LEVEL) - done if below.get(name, set()) <= done}
        assert free, f"packages in a circle: {sorted(set(LEVEL) - done)}"
        done |= free


def test_the_root_holds_the_public_face_alone() -> None:
    assert {p.name for p in (ROOT / "imp_trt").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "_deprecated.py",
        "_lazy.py",
        "classes.py",
        "engine.py",
        "errors.py",
        "segmenter.py",
    }


def test_no_product_code_imports_research() -> None:
    sources = [p for f in ("imp_trt", "export", "train", "plugins") for p in (ROOT / f).rglob("*.py")]
    named = [str(p) for p in sources for name in _imported(p) if name.split(".")[0] == "research"]
    assert not named
