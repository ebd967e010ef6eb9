# SPDX-License-Identifier: Apache-2.0
"""Charts of training logs: drawn where there are logs, and without them the page is as it was."""

from __future__ import annotations

import json
import logging
import os

import pytest

pytest.importorskip("matplotlib", reason="charts need Matplotlib: pip install 'imp-trt[eval]'")
pytest.importorskip("jinja2", reason="the page needs Jinja2: pip install 'imp-trt[eval]'")

from imp_trt.train.report import charts
from imp_trt.train.report.curves import training_curves
from imp_trt.train.report.page import write_report

LOSSES = [
    {"step": 20, "lr": 0.1, "seconds": 9.0, "loss_mask": 0.5, "semantic": 2.0},
    {"step": 40, "lr": 0.1, "seconds": 19.0, "loss_mask": 0.25, "semantic": 1.0},
]
SCORES = [
    {"step": 20, "mean_iou": 0.25, "thing_iou": None},
    {"step": 40, "mean_iou": 0.5, "thing_iou": 0.125},
]


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def drawn(monkeypatch):
    series = {}
    real = charts.lines

    def lines(values, *, title, **options):
        series[title] = values
        return real(values, title=title, **options)

    monkeypatch.setattr(charts, "lines", lines)
    return series


@pytest.mark.parametrize("file", ["imp.safetensors", "imp.best.safetensors"])
def test_both_logs_are_drawn(tmp_path, drawn, file):
    write_lines(tmp_path / "imp.jsonl", LOSSES)
    write_lines(tmp_path / "imp.val.jsonl", SCORES)
    figures = training_curves([("mine", tmp_path / file)])
    assert len(figures) == 2
    assert drawn["Loss of the training"] == {"mine": {20: 2.5, 40: 1.25}}
    assert drawn["mIoU of the validation"] == {
        "mine": {20: 0.25, 40: 0.5},
        "mine, things": {20: None, 40: 0.125},
    }


def test_no_log_no_chart(tmp_path):
    assert training_curves([("mine", tmp_path / "imp.safetensors")]) == []


@pytest.mark.parametrize("text", ["{", "[]\n", '{"lr": 1}\n', "\udcff"])
def test_a_damaged_log_is_a_warning(tmp_path, text, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    (tmp_path / "imp.jsonl").write_text(text, errors="surrogateescape")
    assert training_curves([("mine", tmp_path / "imp.safetensors")]) == []
    assert "no curves from" in caplog.text


def test_a_log_that_never_ends_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("imp_trt"), "propagate", True)
    os.mkfifo(tmp_path / "imp.jsonl")
    assert training_curves([("mine", tmp_path / "imp.safetensors")]) == []
    assert "a FIFO" in caplog.text


def test_the_charts_are_on_the_page(tmp_path, scored):
    write_lines(tmp_path / "imp.jsonl", LOSSES)
    curves = training_curves([("mine", tmp_path / "imp.safetensors")])
    page = write_report(tmp_path / "one.html", scored[1:], machine="abacus", curves=curves).read_text()
    assert page.count("<svg") == 6
    assert "<h2>Training</h2>" in page
    assert "Loss of the training" in page
    assert "<h2>Training</h2>" not in write_report(tmp_path / "x.html", scored, machine="abacus").read_text()
