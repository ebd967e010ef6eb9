"""The product does not depend on the experiments made with it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def imported(source: str) -> set[str]:
    """Top-level names of the modules that a source file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def test_imports_inside_functions_are_found():
    source = "import a.b\ndef f():\n    from research.ablation import cells\n    from . import research\n"
    assert imported(source) == {"a", "research"}


def test_no_product_code_imports_research():
    files = [
        path for folder in ("imp_trt", "export", "train", "plugins") for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(files) > 150
    assert [str(path) for path in files if "research" in imported(path.read_text())] == []
