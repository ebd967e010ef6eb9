# SPDX-License-Identifier: Apache-2.0
"""Stage durations of frames, and exact percentiles of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from imp_trt.errors import UsageError

END_TO_END = "end-to-end"

STAGES = {
    "decode": "decode an image or video frame",
    "pre": "resize to the input size of the network, on the host",
    "upload": "copy the input to the GPU",
    "infer": "network, including normalization and IMP",
    "download": "copy class map and instances from the GPU",
    "post": "resize the outputs to the frame size, on the host",
    "run": "Segmenter.run, including reading the result",
    "draw": "draw the overlay",
    END_TO_END: "decode to draw",
}
"""The stages of a frame in order, with descriptions. "run" comprises pre to post, "end-to-end" all stages."""

TEMPORAL_STAGES = {
    "carry": "move canvas and instances to the next frame",
    "detected": "run, of frames with the detector",
    "carried": "run, of frames without the detector",
}
"""Stages of a video on which the detector runs on some frames (--detect-every), in addition to STAGES."""

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class Samples:
    """Milliseconds of each stage of each frame. All values are kept, so percentiles are exact."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def add(self, row: Mapping[str, float]) -> None:
        """Add a frame: stage -> milliseconds."""
        self.rows.append(dict(row))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def stages(self) -> list[str]:
        """Measured stages in the order of STAGES and TEMPORAL_STAGES."""
        return [stage for stage in (*STAGES, *TEMPORAL_STAGES) if any(stage in row for row in self.rows)]

    def values(self, stage: str) -> list[float]:
        """Return the milliseconds of one stage; frames without it are skipped."""
        return [row[stage] for row in self.rows if stage in row]

    def to_dict(self, percentiles: Sequence[float]) -> dict[str, dict[str, float | None]]:
        """Return stage -> :func:`figures`."""
        return {stage: figures(self.values(stage), percentiles) for stage in self.stages}


def figures(values: Sequence[float], percentiles: Sequence[float]) -> dict[str, float | None]:
    """Return mean, min, each percentile (None if there are too few values for it), and max.

    Args:
        values: at least one, in any order.
        percentiles: 0 to 100.
    """
    ordered = sorted(values)
    result: dict[str, float | None] = {"mean": math.fsum(ordered) / len(ordered), "min": ordered[0]}
    result |= {percentile_name(percentage): percentile(ordered, percentage) for percentage in percentiles}
    return result | {"max": ordered[-1]}


def percentile(ordered: Sequence[float], percentage: float) -> float | None:
    """Return the smallest value that at least percentage percent of the values do not exceed.

    No interpolation. None if no value is larger, because the result would be the maximum: the p99.9 of a
    hundred frames contains no information about one frame in a thousand.

    Args:
        ordered: values in ascending order.
    """
    rank = math.ceil(_exact(percentage) * len(ordered) / 100)
    return ordered[rank - 1] if 0 < rank < len(ordered) else None


def frames_needed(percentage: float) -> int:
    """Minimum number of frames for which :func:`percentile` is not None."""
    return math.ceil(100 / (100 - _exact(percentage)))


def percentile_name(percentage: float) -> str:
    """Return the name of a percentile: p99, p99.9."""
    return f"p{percentage:g}"


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Parse a list such as "50,90,99.9"; returns unique values in ascending order.

    Raises:
        UsageError: it is invalid, or a value is not above 0 and below 100.
    """
    try:
        percentiles = sorted({float(part) for part in text.split(",")})
    except ValueError:
        percentiles = []
    if not percentiles or not all(0 < percentage < 100 for percentage in percentiles):
        raise UsageError("--percentiles", expected="numbers above 0 and below 100: 50,90,99.9", got=text)
    return tuple(percentiles)


def rounded(value: object) -> object:
    """Round all floats in nested dicts and lists to three digits: milliseconds to microseconds."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _exact(percentage: float) -> Fraction:
    # The decimal value: that of the binary float 99.9 is not exact, which may shift the rank by one.
    return Fraction(repr(percentage))
