# SPDX-License-Identifier: Apache-2.0
"""The documentation site builds, offline, and holds every page and public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from docs.tools import reference
from tests.docs.snippets import ROOT


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_generated_pages_are_current(name):
    assert (ROOT / "docs" / name).read_text() == reference.pages()[name], "run python -m docs.tools.reference"


def test_no_page_of_a_former_package_is_left():
    assert {f"api/{p.name}" for p in (ROOT / "docs" / "api").iterdir()} == {
        name for name in reference.pages() if name.startswith("api/")
    }


def test_every_public_name_is_in_the_reference():
    text = "".join(page for name, page in reference.pages().items() if name.startswith("api/"))
    names = {f"{p}.{name}" for p in reference.packages() for name in reference.public_names(p)}
    assert len(names) > 130
    listed = set(re.findall(r"^::: (\S+)$|^- `(\S+)` is", text, re.MULTILINE))
    assert names <= {a or b for a, b in listed}


@pytest.mark.slow
def test_the_site_builds_strictly_and_offline(tmp_path):
    pytest.importorskip("mkdocs", reason="needs mkdocs (extra docs)")
    pytest.importorskip("material", reason="needs mkdocs-material (extra docs)")
    pytest.importorskip("mkdocstrings", reason="needs mkdocstrings (extra docs)")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text()
    assert 'id="imp_trt.Segmenter.run"' in page
    for name in (
        "CONTRIBUTING.html",
        "plugins/tensorrt/index.html",
        "tests/bench/RESULTS.html",
        "guides/int8.html",
    ):
        assert (tmp_path / "site" / name).is_file()
    outside = [
        (path.name, url)
        for path in (tmp_path / "site").rglob("*.html")
        for url in re.findall(
            r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?://[^\"\s>]+)", path.read_text()
        )
    ]
    assert not outside, "the pages load something from the network"
