# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG text, standalone or inlined in HTML.

The SVG has styles for light and dark mode, no scripts and no links, and is reproducible byte for byte with
the same version of Matplotlib.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from imp_trt.errors import InvalidInput
from imp_trt.train.report.numbers import signed

Values = Mapping[str, float | None]
"""Values by class name, in 0-1; None or NaN if missing."""

Ranges = Mapping[str, Mapping[str, tuple[float, float]]]
"""Minimum and maximum, by series and class name."""

# (light mode, dark mode) colors.
_INK = ("#1f2328", "#e6edf3")
_DIM = ("#59636e", "#9198a1")
_GRID = ("#d8dee4", "#2f353d")
# Distinguishable with color vision deficiency; lines also differ in marker and dash pattern.
_SERIES = (
    ("#8a939d", "#8b949e"),
    ("#0b5fc2", "#58a6ff"),
    ("#bf5600", "#f0883e"),
    ("#0e7a55", "#3fb68b"),
    ("#8045c9", "#bc8cff"),
    ("#a61e4d", "#ff7b9c"),
    ("#6f5b00", "#d4b106"),
)
_BETTER = ("#0b5fc3", "#58a6fe")
_WORSE = ("#c2410c", "#f78166")
_MARKERS = "osD^vPX"
_MISSING = chr(0x2013)
_DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("--", "-", "-.", ":", (0, (5, 1)), (0, (1, 1)), "-")

_MIN_SPAN = 1.0  # of the y axis of a line chart: one percentage point
_WIDTH = 7.6
_LEGEND_COLUMNS = 4
_STYLE: dict[Any, Any] = {  # Any: Matplotlib types the keys as a Literal of all of them
    "svg.fonttype": "none",
    "svg.hashsalt": "imp-trt",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRID[0],
    "axes.labelcolor": _DIM[0],
    "xtick.color": _DIM[0],
    "ytick.color": _INK[0],
    "text.color": _INK[0],
    "axes.axisbelow": True,
    "grid.color": _GRID[0],
    "grid.linewidth": 0.8,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "text.parse_math": False,  # a class may be called $5 or $10
}


def bars(
    series: Mapping[str, Values],
    *,
    title: str,
    label: str = "IoU, %",
    sections: Mapping[str, Sequence[str]] | None = None,
    ranges: Ranges | None = None,
    scale: float = 100.0,
) -> str:
    """Grouped horizontal bar chart: one row per class, one bar per series.

    Args:
        series: values by name of the series; one to seven series.
        title: title of the chart.
        label: label of the axis.
        sections: classes by heading ("things", "stuff"); None: all classes, in the order of the
            series.
        ranges: drawn as error bars.
        scale: factor of the values on the axis; 1 for values that are not fractions, such as milliseconds.

    Returns:
        An SVG element as text.

    Raises:
        InvalidInput: no series, too many series, no class, or a class without value in any series.
    """
    _check_series(series)
    rows = _arrange(series.values(), sections)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _row_figure(
            title, rows, 0.12 + 0.15 * len(series), len(series) if len(series) > 1 else 0
        )
        height = 0.8 / len(series)
        ends = [0.0]
        for k, (name, values) in enumerate(series.items()):
            # A proxy artist: an empty bar would have the default color in the legend.
            axes.plot([], [], "s", color=_SERIES[k][0], markersize=7, markeredgewidth=0, label=name)
            for key, row in rows.places.items():
                value = _known(values.get(key))
                place = row + (k - (len(series) - 1) / 2) * height
                if value is None:
                    _finish_bar(axes, place, 0.0, None, scale, _MISSING)
                    continue
                axes.barh(place, scale * value, 0.9 * height, color=_SERIES[k][0])
                span = (ranges or {}).get(name, {}).get(key)
                ends.append(_finish_bar(axes, place, value, span, scale, f"{scale * value:.1f}"))
        axes.set_xlim(0, 1.08 * max(ends) or 1.0)
        _label_rows(axes, rows, label)
        if len(series) > 1:
            _legend(axes, len(series))
        return _svg(figure, title)


def gains(
    values: Values,
    *,
    title: str,
    label: str = "difference, points",
    sections: Mapping[str, Sequence[str]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    scale: float = 100.0,
) -> str:
    """Horizontal bar chart of differences per class.

    Args:
        values: difference by class name.
        ranges: minimum and maximum difference by class name, drawn as error bars.
        title, label, sections, scale: see :func:`bars`.

    Returns:
        An SVG element as text.

    Raises:
        InvalidInput: no class, or a class in a section without value.
    """
    rows = _arrange([values], sections)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _row_figure(title, rows, 0.27, 0)
        ends = [0.0]
        for key, row in rows.places.items():
            value = _known(values.get(key))
            if value is None:
                _finish_bar(axes, row, 0.0, None, scale, _MISSING)
                continue
            axes.barh(row, scale * value, 0.7, color=(_BETTER if value >= 0 else _WORSE)[0])
            span = (ranges or {}).get(key)
            ends.append(_finish_bar(axes, row, value, span, scale, signed(scale * value)))
        reach = 1.18 * max(abs(end) for end in ends) or 1.1  # no tick at the edge
        axes.set_xlim(-reach, reach)
        axes.axvline(0, color=_DIM[0], linewidth=1.0)
        _label_rows(axes, rows, label)
        return _svg(figure, title)


def lines(
    series: Mapping[str, Mapping[float, float | None]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    ranges: Mapping[str, Mapping[float, tuple[float, float]]] | None = None,
    even: bool = False,
    scale: float = 100.0,
) -> str:
    """Line chart; series of up to twenty points have markers.

    Args:
        series: value by x, by name of the series; one to seven series. None makes a gap in a line.
        title: title of the chart.
        x_label, y_label: labels of the axes.
        ranges: minimum and maximum by series and x, drawn as bands.
        even: spaces the x values evenly with one tick each; for few values on a geometric scale.
        scale: factor of the values on the axis.

    Returns:
        An SVG element as text.

    Raises:
        InvalidInput: no series, too many series, or no point.
    """
    _check_series(series)
    points = sorted(set(chain(*series.values())))
    if not points:
        raise InvalidInput("chart", expected="at least one point", got="none")
    place = {x: float(i) if even else float(x) for i, x in enumerate(points)}
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(title, 3.5, left=0.66, bottom=0.48, entries=len(series))
        for k, (name, values) in enumerate(series.items()):
            # NaN makes a gap at missing values; x values of other series only are not missing.
            known = {x: _known(values[x]) for x in points if x in values}
            heights = {x: math.nan if v is None else scale * v for x, v in known.items()}
            marker = _MARKERS[k] if len(points) <= 20 else "None"
            # Markers without edge: its color would not change in dark mode.
            axes.plot(
                [place[x] for x in heights],
                list(heights.values()),
                color=_SERIES[k][0],
                linestyle=_DASHES[k],
                linewidth=1.8,
                label=name,
                marker=marker,
                markersize=6,
                markeredgewidth=0,
            )
            band = (ranges or {}).get(name, {})
            spans = {place[x]: band[x] for x, y in heights.items() if x in band and not math.isnan(y)}
            _draw_band(axes, spans, scale, _SERIES[k][0])
        if even:
            axes.set_xticks(list(place.values()), [f"{x:g}" for x in points])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y")
        axes.margins(y=0.1)
        low, high = axes.get_ylim()
        if high - low < _MIN_SPAN:  # a flat line: without this the axis shows its noise
            middle = max((low + high) / 2, _MIN_SPAN / 2)
            axes.set_ylim(middle - _MIN_SPAN / 2, middle + _MIN_SPAN / 2)
        _legend(axes, len(series))
        return _svg(figure, title)


def _draw_band(axes: Axes, spans: Mapping[float, tuple[float, float]], scale: float, color: str) -> None:
    if not spans:
        return
    low, high = ([scale * span[k] for span in spans.values()] for k in (0, 1))
    axes.fill_between(list(spans), low, high, color=color, alpha=0.18, linewidth=0)


@dataclass(frozen=True)
class _Rows:
    """y positions of classes and headings, increasing downward."""

    places: dict[str, float]
    headings: dict[str, float]

    @property
    def end(self) -> float:
        return max(self.places.values()) + 1


def _arrange(series: Iterable[Values], sections: Mapping[str, Sequence[str]] | None) -> _Rows:
    known = dict.fromkeys(chain(*series))
    places: dict[str, float] = {}
    headings: dict[str, float] = {}
    row = 0.0
    for heading, names in (sections or {"": list(known)}).items():
        if heading and names:
            headings[heading] = row
            row += 0.9
        for name in names:
            if name not in known:
                raise InvalidInput("section of a chart", expected=f"classes out of {list(known)}", got=name)
            places[name] = row
            row += 1
        row += 0.35
    if not places:
        raise InvalidInput("chart", expected="at least one class", got="none")
    return _Rows(places, headings)


def _check_series(series: Mapping[str, object]) -> None:
    if not 1 <= len(series) <= len(_SERIES):
        raise InvalidInput("series of a chart", expected=f"1 to {len(_SERIES)} of them", got=len(series))


def _row_figure(title: str, rows: _Rows, inches: float, entries: int) -> tuple[Figure, Axes]:
    # Approximate character width of DejaVu Sans; other fonts are narrower.
    left = 0.25 + 0.082 * max(len(name) for name in (*rows.places, *rows.headings))
    figure, axes = _figure(title, inches * (rows.end + 0.1), left=left, bottom=0.46, entries=entries)
    axes.set_ylim(rows.end - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure, axes


def _figure(title: str, inches: float, *, left: float, bottom: float, entries: int) -> tuple[Figure, Axes]:
    """A figure with axes of the given height, below the title and a legend of ``entries`` entries."""
    top = 0.42 + 0.2 * -(-entries // _LEGEND_COLUMNS)
    height = bottom + inches + top
    figure = Figure(figsize=(_WIDTH, height))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((left / _WIDTH, bottom / height, 1 - (left + 0.12) / _WIDTH, inches / height))
    figure.text(0.1 / _WIDTH, 1 - 0.1 / height, title, va="top", fontsize=11, fontweight="bold")
    axes.tick_params(colors=_DIM[0])
    return figure, axes


def _finish_bar(
    axes: Axes, place: float, value: float, span: tuple[float, float] | None, scale: float, text: str
) -> float:
    """Draw the error bar and the number of a bar; returns the position of the number."""
    end = scale * value
    if span is not None and span[0] < span[1]:
        axes.plot([scale * span[0], scale * span[1]], [place, place], color=_INK[0], linewidth=1.1)
        end = max(end, scale * span[1]) if value >= 0 else min(end, scale * span[0])
    axes.annotate(
        text,
        (end, place),
        xytext=(3 if value >= 0 else -3, 0),
        textcoords="offset points",
        va="center_baseline",
        ha="left" if value >= 0 else "right",
        fontsize=7.5,
    )
    return end


def _label_rows(axes: Axes, rows: _Rows, label: str) -> None:
    axes.set_yticks(list(rows.places.values()), list(rows.places))
    axes.tick_params(axis="y", colors=_INK[0])
    for heading, row in rows.headings.items():
        axes.annotate(
            heading,
            (0, row),
            xycoords=("axes fraction", "data"),
            xytext=(-3.5, 0),
            textcoords="offset points",
            ha="right",
            va="center_baseline",
            fontweight="bold",
            color=_DIM[0],
        )
    axes.set_xlabel(label)


def _legend(axes: Axes, count: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.15,
        ncols=min(count, _LEGEND_COLUMNS),
        columnspacing=1.6,
        handlelength=2.4,
    )


def _known(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)


def _svg(figure: Figure, title: str) -> str:
    stream = io.StringIO()
    figure.savefig(
        stream,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Ids must be unique on a page with several charts.
    prefix = "c" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    return (
        f'{opening} class="chart" role="img" width="{_WIDTH * 96:.0f}">'
        f"<title>{escape(title)}</title><style>{_dark_style()}</style>{rest}"
    )


def _dark_style() -> str:
    # The light colors remain inline, for viewers without media queries.
    rules = "".join(
        f'.chart [style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in (_INK, _DIM, _GRID, _BETTER, _WORSE, *_SERIES)
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme:dark){{{rules}}}"
