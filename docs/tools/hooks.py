# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: documents outside of docs/ become pages, and links between all of them stay what they are
on disk.

A README of a folder is the page ``FOLDER/index.md``; other Markdown files keep their path. Links to files
that are no page (sources, licenses) become plain text: the site does not contain them.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)


def tracked(*patterns: str) -> list[str]:
    """Files of the checkout, relative to its root, that Git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in dict.fromkeys(done.stdout.split("\n")) if name and (ROOT / name).is_file()]


def page_of(name: str) -> str:
    """Path in the site of a file of the checkout."""
    if name.startswith("docs/"):
        return name[len("docs/") :]
    if name == "README.md":
        return "index.md"
    folder, file = posixpath.split(name)
    return posixpath.join(folder, "index.md") if file == "README.md" else name


def on_files(files: Files, config: Any) -> Files:
    """Add the documents outside of docs/, and the images that they show."""
    for name in tracked("*.md"):
        if not name.startswith(("docs/", ".github/")) and name != "README.md":
            files.append(File.generated(config, page_of(name), content=(ROOT / name).read_text()))
    for name in tracked("samples/images/*.png", "samples/images/*.webp"):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Rewrite links from paths in the checkout to paths in the site."""
    sources = {page_of(name): name for name in tracked("*.md") if name != "README.md"}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part
        if part.startswith("```")
        else LINK.sub(lambda link: _link(link, source, page.file.src_uri, files), part)
        for part in parts
    )


def _link(link: re.Match[str], source: str, page: str, files: Files) -> str:
    picture, text, target = link.groups()
    path, hash_sign, anchor = target.partition("#")
    if not path or ":" in path:
        return link[0]
    name = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if (ROOT / name).is_dir():
        name = posixpath.join(name, "README.md")
    place = page_of(name)
    if files.get_file_from_path(place) is None:
        return text if (ROOT / name).exists() or (ROOT / name).parent.exists() else link[0]
    relative = os.path.relpath(place, posixpath.dirname(page) or ".")
    return f"{picture}[{text}]({relative}{hash_sign}{anchor})"
