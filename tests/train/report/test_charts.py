# SPDX-License-Identifier: Apache-2.0
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
    # Each series has a color, in its bars and in the legend alike; Matplotlib's own must not show.
    assert "#8a939d" in svg
    assert "#0b5fc2" in svg
    assert "#1f77b4" not in svg


def test_gains_carry_their_sign():
    assert {"+12.5", "\N{MINUS SIGN}0.4"} <= set(words(CHARTS["gains"]()))


def test_dark_surroundings_are_served():
    svg = CHARTS["lines"]()
    assert "prefers-color-scheme:dark" in svg
    assert {"10", "400"} <= set(words(svg))


def places(svg, words):
    """Where each word stands, y coordinate in the drawing."""
    found = {}
    for t in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        at = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", t.get("transform", ""))
        if t.text and t.text.strip() in words:
            x, y = (at[1], at[2]) if at else (t.get("x"), t.get("y"))
            found[t.text.strip()] = float(x), float(y)
    return found


def test_a_long_legend_takes_two_rows_between_title_and_bars():
    names = [f"model {k}" for k in range(7)]
    svg = charts.bars({n: {"car": 0.5} for n in names}, title="seven")
    found = places(svg, {"seven", "car", *names})
    heights = sorted({y for n, (_, y) in found.items() if n in names})
    assert len(found) == 9
    assert len(heights) == 2
    assert heights[1] - heights[0] > 9  # a line of text apart
    assert found["seven"][1] + 9 < heights[0]
    assert len({found[n] for n in names}) == 7
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    assert all(x < width - 40 for x, _ in found.values())


def test_missing_values_are_a_dash_and_no_bar():
    dash = "\N{EN DASH}"
    for svg in (
        charts.bars({"a": {"car": 0.5, "sky": None, "sea": float("nan")}}, title=""),
        charts.gains({"car": 0.5, "sky": None, "sea": float("nan")}, title=""),
    ):
        assert words(svg).count(dash) == 2


def test_no_line_bridges_a_missing_value():
    def drawn(middle):
        svg = charts.lines(
            {"a": {1: 0.1, 2: 0.2, 3: middle, 4: 0.4, 5: 0.5}}, title="", x_label="", y_label=""
        )
        lines = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none;[^"]*stroke: #8a939d', svg)
        return max(lines, key=len).count("M")

    assert drawn(0.3) == 1
    assert drawn(None) == drawn(float("nan")) == 2


def test_series_with_positions_of_their_own_are_whole_lines():
    svg = charts.lines({"a": {1: 0.1, 3: 0.2}, "b": {2: 0.1, 4: 0.2}}, title="", x_label="", y_label="")
    assert len(re.findall(r'<path d="M [-\d. ]+\s+L [-\d. ]+\s+"[^>]*stroke: #8a939d', svg)) == 1


def test_names_are_no_formulas():
    assert {"$5 to $10", "$x$"} <= set(words(charts.bars({"$x$": {"$5 to $10": 0.5}, "b": {}}, title="")))


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


def test_the_axis_of_a_flat_line_does_not_show_noise():
    text = charts.lines(
        {"imp": {0.0: 0.0, 1.0: 0.0}}, title="precision", x_label="recall", y_label="precision, %"
    )
    ticks = [float(t) for t in re.findall(r">(-?\d+\.\d+)</text>", text.replace("\u2212", "-"))]
    assert min(ticks) >= 0
    assert max(ticks) - min(ticks) >= 0.8
