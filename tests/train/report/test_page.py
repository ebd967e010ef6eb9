# SPDX-License-Identifier: Apache-2.0
"""The page: one file, every table and chart, the terms, and text that cannot become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib", reason="the page needs Matplotlib: pip install 'imp-trt[eval]'")
pytest.importorskip("jinja2", reason="the page needs Jinja2: pip install 'imp-trt[eval]'")

from imp_trt.errors import DependencyMissing, OutputError
from imp_trt.train.report.example_images import image_row
from imp_trt.train.report.page import write_report
from imp_trt.train.report.tables import Scored, tables
from tests.train.report.conftest import ROOMS, half_blind, perfect


class Balanced(HTMLParser):
    """Fails on a tag that is closed and was not open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page(scored, tmp_path):
    rows = [image_row(ROOMS, 3, [("plain", half_blind), ("imp", perfect)], [0.0, 1.0])]
    path = write_report(
        tmp_path / "deep" / "report.html", scored, machine="abacus", terms=ROOMS.terms, images=rows
    )
    return path.read_text()


def test_everything_is_on_the_page(page, scored):
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    for table in tables(scored):
        assert f"<h2>{table.title}</h2>" in page
        assert all(cell in page for row in table.rows for cell in row)
    assert page.count("<h2>Confusion matrix") == 2, "of both models"
    # Classes, gains, two about boundaries, precision.
    assert page.count("<svg") == 6
    assert page.count("<img") == 4
    assert "for cats only" in page
    assert "abacus" in page
    assert "must not be published" in page


def test_nothing_is_fetched_and_nothing_runs(page):
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def test_one_model_alone(scored, tmp_path):
    text = write_report(tmp_path / "one.html", scored[1:], machine="abacus").read_text()
    assert text.count("<svg") == 5
    assert "difference" not in text
    assert "Terms of the data" not in text


def test_names_cannot_become_markup(scored, tmp_path):
    model = Scored("<b>imp</b>", "<i>", scored[1].evaluation)
    text = write_report(tmp_path / "x.html", [model], machine="abacus", terms="<u>\udcff").read_text("utf-8")
    assert not re.search(r"<b>imp|<i>\.|<u>", text)


def test_a_missing_package_names_the_remedy(scored, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(DependencyMissing, match=r"imp-trt\[eval\]"):
        write_report(tmp_path / "x.html", scored, machine="abacus")
    assert not (tmp_path / "x.html").exists()


def test_a_folder_that_cannot_be_written(scored, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_report(tmp_path / "file" / "x.html", scored, machine="abacus")
