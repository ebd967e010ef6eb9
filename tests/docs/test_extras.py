# SPDX-License-Identifier: Apache-2.0
"""Extras in the documents and messages exist, and the page on the installation lists all of them."""

from __future__ import annotations

import re

import pytest

from docs.tools.hooks import tracked
from tests.docs.snippets import ROOT
from tests.matrix import project

EXTRAS = set(project()["optional-dependencies"])
NAMED = re.compile(r"(?:imp-trt|'\.|-e \.)\[([a-z0-9,-]+)\]")


def test_the_page_on_the_installation_lists_every_extra():
    page = (ROOT / "docs" / "get-started" / "install.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)} == EXTRAS


@pytest.mark.parametrize("pattern", ["*.md", "*.py", "*.ipynb"])
def test_extras_that_are_named_exist(pattern):
    named = {
        extra: name
        for name in tracked(pattern)
        if not name.startswith("tests/")
        for match in NAMED.findall((ROOT / name).read_text())
        for extra in match.split(",")
    }
    assert named or pattern == "*.ipynb"
    assert {extra: name for extra, name in named.items() if extra not in EXTRAS} == {}
