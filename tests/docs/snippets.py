# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the documents, and what each needs to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NEEDS = {
    "camera": "a camera or a stream",
    "checkpoint": "a Mask R-CNN checkpoint of another code base",
    "data": "a labeled dataset",
    "gpu": "an NVIDIA GPU with TensorRT or TensorRT-RTX",
    "jetson": "a Jetson",
    "minutes": "minutes: it trains, calibrates or verifies a real network",
    "network": "the network",
    "parts": "an artifact of imp-export --parts",
    "ray": "Ray",
    "rtx": "TensorRT-RTX",
    "shtab": "shtab",
    "tensorrt": "TensorRT's headers, cmake and nvcc",
    "trtexec": "trtexec",
    "triton": "tritonserver",
}
"""Values of ``<!-- needs: ... -->`` in the line before a block that no test can run."""

NAMED = ("demo", "tests")
"""Markers of the README's two commands, which .ci/run and tests/packaging read."""

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>[^>]+) -->\n)?^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    page: str
    language: str
    code: str
    marker: str | None

    @property
    def needs(self) -> str | None:
        """What it needs, or None if a test runs it."""
        if self.marker in NAMED:
            return "minutes"
        return self.marker.removeprefix("needs: ") if self.marker else None

    @property
    def lines(self) -> list[str]:
        """Commands of a shell block, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def blocks(page: str) -> list[Block]:
    """The blocks of a document, by its path in the checkout."""
    found = []
    for match in _BLOCK.finditer((ROOT / page).read_text()):
        indent = len(match["indent"])
        code = "".join(line[indent:] for line in match["code"].splitlines(keepends=True))
        found.append(Block(page, match["language"], code, match["marker"]))
    return found


@cache
def documents() -> tuple[str, ...]:
    """Every Markdown file of the checkout."""
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "site"]
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]
    return tuple(sorted(str(path.relative_to(ROOT)) for path in paths))


def run_pages() -> list[str]:
    """Documents whose blocks run, or say what they need: the README and what users read in docs/."""
    return ["README.md", *[name for name in documents() if name.startswith("docs/")]]
