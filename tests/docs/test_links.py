# SPDX-License-Identifier: Apache-2.0
"""Links between the documents lead to files and headings that exist."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.docs.snippets import ROOT, documents

LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_without_code(page: str) -> str:
    text = (ROOT / page).read_text()
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def slug(heading: str) -> str:
    """The anchor that GitHub and the site give a heading."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


@cache
def anchors(page: str) -> frozenset[str]:
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return frozenset(slug(heading) for heading in re.findall(r"^#+ +(.*)$", text, re.MULTILINE))


def broken(page: str) -> list[str]:
    found = []
    for link in LINK.findall(text_without_code(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not target.exists():
            found.append(link)
        elif anchor and target.suffix == ".md" and anchor not in anchors(str(target.relative_to(ROOT))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", documents())
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path, monkeypatch):
    import tests.docs.test_links as this

    (tmp_path / "a.md").write_text(
        "# One two\n[x](#one-two) [y](#three) [z](b.md) [w](https://nowhere)\n`[c](d.md)`\n"
    )
    monkeypatch.setattr(this, "ROOT", tmp_path)
    anchors.cache_clear()
    assert broken("a.md") == ["#three", "b.md"]
    anchors.cache_clear()
