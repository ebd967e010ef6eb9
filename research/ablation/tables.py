# SPDX-License-Identifier: Apache-2.0
"""Markdown tables and how figures are written in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from imp_trt.train.report.numbers import signed
from research.ablation.summary import Spread

NONE = "\N{EN DASH}"
"""Placeholder for a missing number."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table with the first column aligned left and the others right."""
    lines = ["| " + " | ".join(head) + " |", "|:--" + "|--:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def percent(spread: Spread | None) -> str:
    """Mean in percent, with the range if there are several seeds."""
    if spread is None:
        return NONE
    mean = f"{100 * spread.mean:.1f}"
    return mean if spread.count == 1 else f"{mean} ({100 * spread.low:.1f} to {100 * spread.high:.1f})"


def points(spread: Spread | None) -> str:
    """Mean difference in percentage points, with the range if there are several seeds."""
    if spread is None:
        return NONE
    mean, low, high = (signed(100 * v) for v in (spread.mean, spread.low, spread.high))
    return mean if spread.count == 1 else f"{mean} ({low} to {high})"
