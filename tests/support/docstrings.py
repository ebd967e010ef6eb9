# SPDX-License-Identifier: Apache-2.0
"""What pybind11 writes into the docstrings of TensorRT's bindings: parameters and types."""

from __future__ import annotations

import re
from typing import NamedTuple


class Parameter(NamedTuple):
    name: str
    optional: bool


def parameters(text: str, name: str) -> list[list[Parameter]]:
    """Parameters of every overload in a docstring that pybind11 wrote, self left out."""
    found = []
    for line in text.splitlines():
        match = re.fullmatch(rf"(?:\d+\. )?{re.escape(name)}\((.*)\) -> .*", line.strip())
        if match and match[1] != "*args, **kwargs":
            # Types hold commas in brackets, default values stand in angle brackets.
            flat, depth = "", 0
            for letter in match[1]:
                depth += (letter in "[<(") - (letter in "]>)")
                flat += "" if depth else letter
            parts = [part.strip() for part in flat.split(",")]
            listed = [Parameter(re.split("[:=]", part)[0].strip(), "=" in part) for part in parts]
            found.append([p for p in listed if p.name not in ("", "self", "*", "/")])
    return found


def signatures(text: str, name: str) -> list[list[str]]:
    """Parameter names of every overload, as `parameters`."""
    return [[parameter.name for parameter in overload] for overload in parameters(text, name)]


def returned(text: str) -> str | None:
    """The class that a function or property returns, in its first overload, without the module."""
    found = re.search(r"\) -> ([\w.:]+)$", text, re.MULTILINE)
    return re.split("[.:]", found[1])[-1] if found else None
