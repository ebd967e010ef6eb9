"""Durations of many frames, and the percentiles that so many of them allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from imp_trt.errors import UsageError

END_TO_END = "end-to-end"

STAGES = {
    "decode": "file or JPEG to pixels",
    "pre": "host: to the network's size",
    "upload": "to the GPU",
    "infer": "the network, normalization and IMP inside",
    "download": "class map and objects from the GPU",
    "post": "host: back to the frame's size",
    "run": "Segmenter.run, and reading its answer",
    "draw": "the overlay",
    END_TO_END: "decode to drawn result",
}
"""The stages of a frame in their order, and what each is. "run" covers pre to post, the last covers all."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class Samples:
    """Milliseconds of each stage of each frame, all kept, so that percentiles are exact."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, row: Mapping[str, float]) -> None:
        """One frame: stage -> milliseconds."""
        self.rows.append(dict(row))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stages(self) -> list[str]:
        """What was measured, in the order of STAGES."""
        return [stage for stage in STAGES if any(stage in row for row in self.rows)]

    def values(self, stage: str) -> list[float]:
        """Milliseconds of one stage; frames without it are left out."""
        return [row[stage] for row in self.rows if stage in row]

    def to_dict(self, shares: Sequence[float]) -> dict[str, dict[str, float | None]]:
        """stage -> :func:`figures`."""
        return {stage: figures(self.values(stage), shares) for stage in self.stages}


def figures(values: Sequence[float], shares: Sequence[float]) -> dict[str, float | None]:
    """mean, min, each percentile (None where there are too few values for it), and max.

    Args:
        values: at least one, any order.
        shares: in percent.
    """
    ordered = sorted(values)
    found: dict[str, float | None] = {"mean": math.fsum(ordered) / len(ordered), "min": ordered[0]}
    found |= {percentile_name(share): percentile(ordered, share) for share in shares}
    return found | {"max": ordered[-1]}


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that share percent of the values do not exceed; None if none lies above it.

    It is one of the values, never between two. Where no value lies above, it would be the greatest value
    under another name: a p99.9 of a hundred frames says nothing about one frame in a thousand.

    Args:
        ordered: ascending.
    """
    rank = math.ceil(_exact(share) * len(ordered) / 100)
    return ordered[rank - 1] if 0 < rank < len(ordered) else None


def frames_needed(share: float) -> int:
    """Least number of frames for which :func:`percentile` has a value."""
    return math.ceil(100 / (100 - _exact(share)))


def percentile_name(share: float) -> str:
    """p99, p99.9."""
    return f"p{share:g}"


def parse_shares(text: str) -> tuple[float, ...]:
    """Percentages from "50,90,99.9", ascending, each once.

    Raises:
        UsageError: something else, or not above 0 and below 100.
    """
    try:
        shares = sorted({float(part) for part in text.split(",")})
    except ValueError:
        shares = []
    if not shares or not all(0 < share < 100 for share in shares):
        raise UsageError("--percentiles", expected="numbers above 0 and below 100: 50,90,99.9", got=text)
    return tuple(shares)


def rounded(value: Any) -> Any:
    """Plain data with its floats rounded to the microsecond, where they are milliseconds."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _exact(share: float) -> Fraction:
    # 99.9 as it is written: the nearest binary number lies beside it, which moves a rank by one.
    return Fraction(repr(share))
