# SPDX-License-Identifier: Apache-2.0
"""Packages collect their public names; samples and documents use no others."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for folder in ("imp_trt", *(f"imp_trt/{name}" for name in ("export", "plugins", "train")))
    for path in (ROOT / folder).rglob("__init__.pyi")
)
EXAMPLES = [
    *sorted((ROOT / "samples").rglob("*.py")),
    *[p for p in sorted(ROOT.rglob("*.md")) if not {".venv", "research", "tests"} & set(p.parts)],
]
ANY_VALUE = {
    "ImpTrtError.__init__",  # writes any value in its message
    "DeviceFrame.__init__",  # keeps what owns the memory
}


def imports(text: str) -> list[tuple[str, str]]:
    """(module, name) of every import of the package; the name is empty for ``import module``."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(str(node.module), alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "imp_trt"]


def snippets(path: Path) -> list[str]:
    text = path.read_text()
    if path.suffix == ".py":
        return [text]
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_there_are_packages_and_examples() -> None:
    assert len(PACKAGES) >= 15
    assert len([p for p in EXAMPLES if p.suffix == ".md"]) > 5
    assert sum(len(imports(text)) for path in EXAMPLES for text in snippets(path)) > 40


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    submodules = {path.stem for path in Path(str(module.__file__)).parent.iterdir()}
    # A function would hide the module of its name, or the module the function.
    assert not submodules & set(module.__all__)
    try:
        names = [getattr(module, name) for name in module.__all__]
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    assert all(value is not None for value in names)
    with pytest.raises(AttributeError):
        module.nothing_of_this_name  # noqa: B018


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_use_public_names(path: Path) -> None:
    private = []
    for module, name in (pair for text in snippets(path) for pair in imports(text)):
        public = getattr(importlib.import_module(module), "__all__", None)
        if module == "imp_trt.errors":  # every class there is public
            public = dir(importlib.import_module(module))
        if public is None or (name and name not in public):
            private.append(f"{module}: {name or 'import of a module'}")
    assert not private


def methods(package: str) -> list[tuple[str, Callable[..., object]]]:
    """(name, function) of the public functions, and of the public methods of the public classes."""
    found: list[tuple[str, Callable[..., object]]] = []
    for name in (module := importlib.import_module(package)).__all__:
        value = getattr(module, name)
        if inspect.isfunction(value):
            found.append((name, value))
        elif inspect.isclass(value):
            found += [
                (f"{name}.{key}", method)
                for key, method in vars(value).items()
                if inspect.isfunction(method) and (key == "__init__" or not key.startswith("_"))
            ]
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_parameters_have_types_that_editors_can_check(package: str) -> None:
    """``object`` accepts a path or None where a frame or an array is meant."""
    try:
        functions = methods(package)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    vague = [
        f"{name}({parameter.name}: {parameter.annotation})"
        for name, function in functions
        for parameter in inspect.signature(function).parameters.values()
        if re.fullmatch(r"(Sequence\[|Iterable\[)?object\]?( \| None)?", str(parameter.annotation))
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in ANY_VALUE
    ]
    assert not vague
