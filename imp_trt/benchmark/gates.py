# SPDX-License-Identifier: Apache-2.0
"""Latency gates such as "p99<30ms": parsing and evaluation.

GATE      = METRIC OP NUMBER [UNIT]
METRIC    = [STAGE "."] STATISTIC | "fps" | "load" | "first" | BASELINE ".ratio"
STAGE     = decode | pre | upload | infer | download | post | run | draw | end-to-end (default: end-to-end)
            | carry | detected | carried, with --detect-every
STATISTIC = p50, p99.9 ... | mean | min | max
BASELINE  = pytorch | maskrcnn; the ratio is its time divided by that of the artifact
OP        = < | <= | > | >=
UNIT      = us | ms | s; default ms; none for fps and ratios
"""

from __future__ import annotations

import logging
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from imp_trt._deprecated import renamed_fields
from imp_trt.benchmark.samples import (
    END_TO_END,
    STAGES,
    TEMPORAL_STAGES,
    frames_needed,
    percentile_name,
)
from imp_trt.errors import LatencyError, UsageError

_log = logging.getLogger(__name__)

BASELINES = ("pytorch", "maskrcnn")
DEPRECATED_BASELINES = {"peer": "maskrcnn"}
REPORT_NAMES = {"maskrcnn": "peer"}
"""Names of baselines in JSON reports, where they differ: reports keep the name of version 0.1."""

GRAMMAR = (
    "[STAGE.]p99<30ms, [STAGE.]mean<25ms, [STAGE.]max<50ms, first<2s, load<5s, fps>25 or pytorch.ratio>1.3; "
    f"STAGE is one of {', '.join(STAGES)} (default {END_TO_END})"
)

_GATE = re.compile(r"\s*([a-z0-9.-]+?)\s*(<=|<|>=|>)\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|)\s*")
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}
_SINGLE = ("load", "first")


class Verdict(TypedDict):
    """Result of a gate, data for JSON."""

    gate: str
    metric: str
    value: float
    unit: str
    held: bool


@renamed_fields(share="percentage")
@dataclass(frozen=True)
class Gate:
    """A condition on one metric.

    Attributes:
        text: as given by the user.
        metric: "fps", "load", "first", "pytorch.ratio", or stage and statistic: "end-to-end.p99".
        comparison: "<", "<=", ">" or ">=".
        limit: in milliseconds; for fps and ratios, the number itself.
        percentage: of a percentile, 0 to 100; None for other statistics.
    """

    text: str
    metric: str
    comparison: str
    limit: float
    percentage: float | None = None

    @property
    def unit(self) -> str:
        """Unit of the metric: "ms", or "" for fps and ratios."""
        return "" if self.metric == "fps" or self.metric.endswith(".ratio") else "ms"

    @property
    def stage(self) -> str | None:
        """Stage of the metric; None for metrics without a stage."""
        stage = self.metric.partition(".")[0]
        return stage if stage in (*STAGES, *TEMPORAL_STAGES) else None

    def holds(self, value: float) -> bool:
        """Whether value satisfies the condition."""
        return _OPERATORS[self.comparison](value, self.limit)


def parse_gate(text: str) -> Gate:
    """Parse a gate; see the grammar in the docstring of this module.

    Raises:
        UsageError: it is invalid.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise _bad(text)
    metric, comparison, number, unit = match.groups()
    if metric.endswith(".ratio"):
        metric = f"{baseline_name(metric.removesuffix('.ratio'))}.ratio"
    limit, percentage = float(number) * _MILLISECONDS[unit], None
    if metric == "fps" or metric in [f"{baseline}.ratio" for baseline in BASELINES]:
        if unit:
            raise _bad(text, f"a unit after {metric}")
    elif metric not in _SINGLE:
        stage, statistic = _split(metric)
        if stage not in (*STAGES, *TEMPORAL_STAGES):
            raise _bad(text, f"the stage {stage}")
        if re.fullmatch(r"p\d+(\.\d+)?", statistic):
            percentage = float(statistic[1:])
            if not 0 < percentage < 100:
                raise _bad(text, statistic)
            statistic = percentile_name(percentage)
        elif statistic not in ("mean", "min", "max"):
            raise _bad(text, f"the statistic {statistic}")
        metric = f"{stage}.{statistic}"
    return Gate(text.strip(), metric, comparison, limit, percentage)


def frames_for(gates: Sequence[Gate]) -> int:
    """Minimum number of frames for the percentiles of the gates; 0 without percentiles."""
    return max((frames_needed(gate.percentage) for gate in gates if gate.percentage is not None), default=0)


def baseline_name(name: str) -> str:
    """Return the current name of a baseline; a deprecated name is accepted with a warning."""
    if name in DEPRECATED_BASELINES:
        _log.warning("the baseline name %r is deprecated, use %r", name, DEPRECATED_BASELINES[name])
    return DEPRECATED_BASELINES.get(name, name)


def evaluate(gates: Sequence[Gate], values: Mapping[str, float]) -> list[Verdict]:
    """Evaluate all gates.

    Args:
        values: metric -> milliseconds, frames per second, or ratio.

    Raises:
        UsageError: a metric was not measured.
    """
    for gate in gates:
        if not math.isfinite(values.get(gate.metric, math.nan)):
            raise unmeasured(gate)
    return [
        {
            "gate": gate.text,
            "metric": gate.metric,
            "value": values[gate.metric],
            "unit": gate.unit,
            "held": gate.holds(values[gate.metric]),
        }
        for gate in gates
    ]


def unmeasured(gate: Gate) -> UsageError:
    """Return the error for a gate on a metric that is not measured."""
    return UsageError(f"--assert {gate.text}", expected="a metric that is measured", got=gate.metric)


def enforce(verdicts: Sequence[Verdict]) -> None:
    """Raise if a gate is missed.

    Raises:
        LatencyError: lists all missed gates and the measured values.
    """
    missed = [verdict for verdict in verdicts if not verdict["held"]]
    if missed:
        raise LatencyError(
            "latency gate missed" if len(missed) == 1 else f"{len(missed)} latency gates missed",
            expected=", ".join(verdict["gate"] for verdict in missed),
            got=", ".join(
                f"{v['metric']} {v['value']:.2f}{' ' + v['unit'] if v['unit'] else ''}" for v in missed
            ),
        )


def _split(metric: str) -> tuple[str, str]:
    """Split a metric into stage and statistic; a percentile such as p99.9 contains a point itself."""
    match = re.fullmatch(r"(?:([a-z-]+)\.)?([a-z]+[0-9.]*)", metric)
    if match is None:
        raise _bad(metric)
    return match[1] or END_TO_END, match[2]


def _bad(text: str, got: str | None = None) -> UsageError:
    return UsageError(f"--assert {text!r}", expected=GRAMMAR, got=got)
