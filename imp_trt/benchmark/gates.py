"""Latency gates: "p99<30ms" and what it takes to hold them.

GATE      = METRIC OP NUMBER [UNIT]
METRIC    = [STAGE "."] STATISTIC | "fps" | "load" | "first" | RIVAL ".ratio"
STAGE     = decode | pre | upload | infer | download | post | run | draw | end-to-end (without: this one)
STATISTIC = p50, p99.9 ... | mean | min | max
RIVAL     = pytorch | peer: its time over the artifact's, so above 1 the artifact is the faster one
OP        = < | <= | > | >=
UNIT      = us | ms | s; ms without one; none after fps and ratios
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imp_trt.benchmark.samples import END_TO_END, STAGES, frames_needed, percentile_name
from imp_trt.errors import LatencyError, UsageError

RIVALS = ("pytorch", "peer")
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


@dataclass(frozen=True)
class Gate:
    """One condition.

    Attributes:
        text: as it was given.
        metric: what is looked up: "fps", "load", "first", "pytorch.ratio", or stage and statistic:
            "end-to-end.p99".
        comparison: "<", "<=", ">" or ">=".
        limit: milliseconds; of fps and ratios, the number itself.
        share: of a percentile, in percent; else None.
    """

    text: str
    metric: str
    comparison: str
    limit: float
    share: float | None = None

    @property
    def unit(self) -> str:
        """ "ms", or "" for fps and ratios."""
        return "" if self.metric == "fps" or self.metric.endswith(".ratio") else "ms"

    @property
    def stage(self) -> str | None:
        """Of a stage's statistic; else None."""
        stage = self.metric.partition(".")[0]
        return stage if stage in STAGES else None

    def holds(self, value: float) -> bool:
        """Whether value passes."""
        return _OPERATORS[self.comparison](value, self.limit)


def parse_gate(text: str) -> Gate:
    """A gate from its text; see the module's grammar.

    Raises:
        UsageError: it is none.
    """
    found = _GATE.fullmatch(text)
    if found is None:
        raise _bad(text)
    metric, comparison, number, unit = found.groups()
    limit, share = float(number) * _MILLISECONDS[unit], None
    if metric == "fps" or metric in [f"{rival}.ratio" for rival in RIVALS]:
        if unit:
            raise _bad(text, f"a unit after {metric}")
    elif metric not in _SINGLE:
        stage, statistic = _split(metric)
        if stage not in STAGES:
            raise _bad(text, f"the stage {stage}")
        if re.fullmatch(r"p\d+(\.\d+)?", statistic):
            share = float(statistic[1:])
            if not 0 < share < 100:
                raise _bad(text, statistic)
            statistic = percentile_name(share)
        elif statistic not in ("mean", "min", "max"):
            raise _bad(text, f"the statistic {statistic}")
        metric = f"{stage}.{statistic}"
    return Gate(text.strip(), metric, comparison, limit, share)


def frames_for(gates: Sequence[Gate]) -> int:
    """Frames that the percentiles of the gates need; 0 without percentiles."""
    return max((frames_needed(gate.share) for gate in gates if gate.share is not None), default=0)


def judge(gates: Sequence[Gate], values: Mapping[str, float]) -> list[dict[str, Any]]:
    """Every gate with its value and whether it holds; plain data.

    Args:
        values: metric -> milliseconds, frames a second, or ratio.

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
    """For a gate on what is not measured."""
    return UsageError(f"--assert {gate.text}", expected="something that is measured here", got=gate.metric)


def enforce(verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Raise if a gate is missed.

    Raises:
        LatencyError: names every gate that was missed, and the values.
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
    """Stage and statistic; the percentile's own point is not the one between them."""
    found = re.fullmatch(r"(?:([a-z-]+)\.)?([a-z]+[0-9.]*)", metric)
    if found is None:
        raise _bad(metric)
    return found[1] or END_TO_END, found[2]


def _bad(text: str, got: str | None = None) -> UsageError:
    return UsageError(f"--assert {text!r}", expected=GRAMMAR, got=got)
