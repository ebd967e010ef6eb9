"""The charts: well-formed, self-contained, the same every time, and with what they were given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="charts need Matplotlib: pip install 'imp-trt[eval]'")

from imp_trt.errors import InvalidInput
from imp_trt.train.report import charts

PAIR = {"plain": {"car": 0.5, "sky": 0.9}, "imp": {"car": 0.625, "sky": None}}
SECTIONS = {"things": ["car"], "stuff": ["sky"]}
CHARTS = {
    "bars": lambda: charts.bars(
        PAIR, title="IoU <&>", sections=SECTIONS, ranges={"imp": {"car": (0.6, 0.7)}}
    ),
    "gains": lambda: charts.gains({"car": 0.125, "sky": -0.004}, title="gain", ranges={"car": (0.1, 0.2)}),
    "lines": lambda: charts.lines(
        {"plain": {10: 0.5, 400: 0.7}, "imp": {10: 0.55, 400: None}},
        title="near boundaries",
        x_label="pixels",
        y_label="mIoU, %",
        ranges={"plain": {10: (0.4, 0.6), 400: (0.6, 0.8)}},
        even=True,
    ),
}


def words(svg):
    return [
        t.text.strip() for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text") if t.text
    ]


@pytest.mark.parametrize("name", CHARTS)
def test_same_bytes_and_no_link_to_elsewhere(name):
    svg = CHARTS[name]()
    assert svg == CHARTS[name]()
    ElementTree.fromstring(svg)  # well-formed
    links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', svg)
    assert all((a or b).startswith("#") for a, b in links)
    assert "<script" not in svg
    assert not re.search(r"\b20\d\d-\d\d-\d\d", svg)


def test_two_charts_on_a_page_share_no_name():
    first, second = (set(re.findall(r'\bid="([^"]+)"', CHARTS[name]())) for name in ("bars", "gains"))
    assert first
    assert not first & second


def test_bars_say_the_values_and_leave_out_what_is_missing():
    svg = CHARTS["bars"]()
    said = words(svg)
    assert {"50.0", "90.0", "62.5", "things", "stuff", "car", "sky", "plain", "imp"} <= set(said)
    assert sum(word in ("50.0", "62.5", "90.0") for word in said) == 3
    # Each series has a colour, in its bars and in the legend alike; Matplotlib's own must not show.
    assert "#8a939d" in svg
    assert "#0b5fc2" in svg
    assert "#1f77b4" not in svg


def test_gains_carry_their_sign():
    assert {"+12.5", "\N{MINUS SIGN}0.4"} <= set(words(CHARTS["gains"]()))


def test_dark_surroundings_are_served():
    svg = CHARTS["lines"]()
    assert "prefers-color-scheme:dark" in svg
    assert {"10", "400"} <= set(words(svg))


@pytest.mark.parametrize(
    "make",
    [
        lambda: charts.bars({}, title=""),
        lambda: charts.bars({str(k): {"a": 1.0} for k in range(8)}, title=""),
        lambda: charts.bars({"a": {}}, title=""),
        lambda: charts.bars({"a": {"car": 1.0}}, title="", sections={"things": ["bus"]}),
        lambda: charts.lines({"a": {}}, title="", x_label="", y_label=""),
    ],
)
def test_nothing_to_draw_is_an_error(make):
    with pytest.raises(InvalidInput):
        make()
