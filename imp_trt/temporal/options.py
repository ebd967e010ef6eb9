# SPDX-License-Identifier: Apache-2.0
"""How the canvas of a video is carried from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from imp_trt.errors import InvalidInput

Carry = Literal["flow", "none"]
"""What moves canvas and instances to the next frame: the optical flow, or nothing."""

CARRIES: tuple[Carry, ...] = ("flow", "none")

MAX_AGE = 30
"""Default of :attr:`TemporalOptions.max_age`, in frames."""

MAX_GAP_S = 1.0
"""Default of :attr:`TemporalOptions.max_gap_s`, in seconds."""

CUT_CHANGE: dict[Carry, float] = {"flow": 0.35, "none": 0.6}
"""Defaults of :attr:`TemporalOptions.cut_change`.

Between frames of a drive at 15 Hz the change was at most 0.15 with the flow and 0.34 without it, four frames
apart 0.29 and 0.50. Between photos of different scenes it was 0.72 and more; between places along one road
0.39 and more with the flow for 95% of them.
"""


@dataclass(frozen=True)
class TemporalOptions:
    """How often the detector runs on a video, and what happens between two of its frames.

    On the other frames only backbone and semantic head run, on the canvas that is carried over from the frame
    before. Their instances are those of the last detection, moved along.

    Attributes:
        detect_every: the detector runs on every detect_every-th frame.
        detect_budget_ms: the detector runs only as often as the mean time of a frame stays below this many
            milliseconds; None sets no limit. The frame itself is never skipped.
        carry: "flow" moves the canvas and the instances by the optical flow between the frames (DIS flow of
            OpenCV on luma at the size of the canvas); "none" leaves them where they were.
        blend: weight of the carried canvas where the detector ran, 0 to below 1: the head then sees
            (1 - blend) * own + blend * carried. That is steadier, but on each such frame backbone and head
            run twice. An object that is gone fades by this factor with each detection.
        max_age: no canvas and no instance gets older than this many frames: then the detector runs, whatever
            the budget. Not less than detect_every - 1.
        max_gap_s: a longer time between two frames resets the state, as does time that runs backward; only
            for frames that have a time.
        cut_change: a change of the image above this resets the state, see
            :class:`imp_trt.temporal.motion.Motion`; math.inf never does; None is 0.35 with the flow, 0.6
            without.

    Raises:
        InvalidInput: a value is out of its range.
    """

    detect_every: int = 1
    detect_budget_ms: float | None = None
    carry: Carry = "flow"
    blend: float = 0.0
    max_age: int = MAX_AGE
    max_gap_s: float = MAX_GAP_S
    cut_change: float | None = None

    def __post_init__(self) -> None:
        for name in ("detect_every", "max_age"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInput(name, expected="a number of frames, at least 1", got=repr(value))
        if self.max_age < self.detect_every - 1:
            object.__setattr__(self, "max_age", self.detect_every - 1)
        budget = self.detect_budget_ms
        if budget is not None and not 0 < budget < math.inf:
            raise InvalidInput("detect_budget_ms", expected="milliseconds above 0", got=budget)
        if self.carry not in CARRIES:
            raise InvalidInput("carry", expected=" or ".join(CARRIES), got=repr(self.carry))
        if not 0 <= self.blend < 1:
            raise InvalidInput("blend", expected="0 to below 1", got=self.blend)
        for name, value in (("max_gap_s", self.max_gap_s), ("cut_change", self.least_cut)):
            if not value > 0:
                raise InvalidInput(name, expected="above 0", got=value)

    @property
    def least_cut(self) -> float:
        """cut_change, or its default."""
        return CUT_CHANGE[self.carry] if self.cut_change is None else self.cut_change
