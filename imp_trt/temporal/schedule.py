# SPDX-License-Identifier: Apache-2.0
"""On which frames of a video the detector runs."""

from __future__ import annotations

from collections import deque

from imp_trt.temporal.options import TemporalOptions

_RECENT = 5  # times that an estimate is the median of


class DetectionSchedule:
    """Chooses the frames with the detector, by their number and by a budget of time.

    The budget is that of a frame on average: a frame without the detector saves what the next one with it
    needs. The time of a frame with the detector is the median of the last few. That of the first frame is not
    counted, because the first call of a network takes longer.

    Args:
        options: detect_every, detect_budget_ms and max_age are used.
    """

    def __init__(self, options: TemporalOptions) -> None:
        self._options = options
        self._started = False
        self._saved_ms = 0.0
        self._detected_ms: deque[float] = deque(maxlen=_RECENT)

    def due(self, age: int, slack_ms: float | None = None) -> bool:
        """Whether the next frame gets the detector.

        Args:
            age: the canvas's at that frame, in frames, if it is carried over.
            slack_ms: time that is left for the frame; None if there is no deadline.
        """
        options = self._options
        if age > options.max_age:
            return True
        if age < options.detect_every:
            return False
        needed = self._needed_ms()
        if slack_ms is not None and needed > slack_ms:
            return False
        budget = options.detect_budget_ms
        return budget is None or needed <= budget + self._saved_ms

    def add(self, detected: bool, milliseconds: float) -> None:
        """Add the time of a frame."""
        if not self._started:
            self._started = True
            return
        if detected:
            self._detected_ms.append(milliseconds)
        if self._options.detect_budget_ms is not None:
            bound = self._needed_ms()
            saved = self._saved_ms + self._options.detect_budget_ms - milliseconds
            self._saved_ms = min(max(saved, -bound), bound)

    def _needed_ms(self) -> float:
        times = sorted(self._detected_ms)
        return times[(len(times) - 1) // 2] if times else 0.0
