# SPDX-License-Identifier: Apache-2.0
"""Options of commands that carry the canvas of a video from frame to frame."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from imp_trt.cli.common import positive, seconds
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.temporal import TemporalOptions


def add_temporal(p: argparse._ArgumentGroup) -> None:
    """Add the options."""
    p.add_argument(
        "--detect-every",
        type=positive,
        metavar="K",
        help="run the detector on every K-th frame; on the others, canvas and instances are carried over "
        "from the frame before. An artifact needs its canvas part (imp-export --parts), a checkpoint does "
        "not",
    )
    p.add_argument(
        "--detect-budget",
        type=partial(seconds, unit="ms"),
        metavar="TIME",
        help="run the detector as often as the mean time of a frame stays below this, such as 40ms",
    )
    p.add_argument(
        "--carry",
        choices=("flow", "none"),
        default="flow",
        help="move canvas and instances by the optical flow, or leave them where they were (default: flow)",
    )
    p.add_argument(
        "--blend",
        type=_weight,
        default=0.0,
        metavar="W",
        help="weight of the carried canvas where the detector ran, 0 to below 1: steadier, but backbone and "
        "head then run twice (default: 0)",
    )


def temporal_of(args: argparse.Namespace) -> TemporalOptions | None:
    """The options, None if the detector runs on every frame.

    Raises:
        UsageError: --carry without one of the others.
    """
    from imp_trt.temporal import TemporalOptions

    if args.detect_every is None and args.detect_budget is None and not args.blend:
        if args.carry != "flow":
            raise UsageError("--carry", expected="--detect-every or --detect-budget with it")
        return None
    budget_ms = None if args.detect_budget is None else args.detect_budget * 1e3
    return TemporalOptions(args.detect_every or 1, budget_ms, args.carry, args.blend)


def _weight(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value
