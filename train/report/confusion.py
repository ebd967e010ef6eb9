# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix of a model, for the terminal and the HTML report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imp_trt.metrics.semantic import SemanticScores

NO_CLASS = "no class"
"""Column of the labeled pixels that the model gave no class (255)."""


@dataclass(frozen=True)
class ConfusionCell:
    """One cell.

    Attributes:
        text: percent of the true class's pixels, rounded; empty below 0.5%.
        fraction: of the true class's pixels, 0-1, for the shade of the cell.
        correct: on the diagonal.
    """

    text: str
    fraction: float
    correct: bool


@dataclass(frozen=True)
class ConfusionTable:
    """Rows are true classes, columns are predicted classes.

    Attributes:
        head: names of the columns.
        rows: name of the true class, and its cells.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[ConfusionCell, ...]], ...]


def confusion_table(scores: SemanticScores) -> ConfusionTable | None:
    """The confusion matrix as percentages of each true class; None if the scores hold none.

    Classes that occur in neither labels nor predictions are left out.
    """
    counts = scores.confusion
    if counts is None:
        return None
    names = scores.classes.names
    occurs = (counts.sum(axis=1) > 0) | (counts.sum(axis=0)[:-1] > 0)
    columns = [*np.flatnonzero(occurs).tolist()]
    head = [names[k] for k in columns]
    if counts[:, -1].any():
        columns.append(len(names))
        head.append(NO_CLASS)
    rows = []
    for k in np.flatnonzero(counts.sum(axis=1)).tolist():
        fractions = counts[k] / counts[k].sum()
        cells = tuple(
            ConfusionCell(f"{100 * v:.0f}" if v >= 0.005 else "", float(v), c == k)
            for c, v in ((c, fractions[c]) for c in columns)
        )
        rows.append((names[k], cells))
    return ConfusionTable(tuple(head), tuple(rows))
