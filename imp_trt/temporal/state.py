# SPDX-License-Identifier: Apache-2.0
"""What is remembered of a video between its frames."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Literal

from imp_trt.temporal.carried import Carried
from imp_trt.temporal.motion import Luma, Motion
from imp_trt.temporal.options import TemporalOptions
from imp_trt.temporal.schedule import DetectionSchedule

ResetReason = Literal["start", "by hand", "size", "gap", "cut"]
"""Why a state holds nothing of the frames before the one that it was reset at."""

_SAME_TIME_S = 1e-3


class TemporalState:
    """The canvas and the instances of one video or camera, from frame to frame.

    One for each video; :meth:`imp_trt.Segmenter.run_next` takes and changes it. It is reset by itself at a
    cut, where the size of the frames changes, at a gap in time, and where time runs backward; see
    :class:`imp_trt.temporal.TemporalOptions` for the thresholds. The detector then runs on that frame, and
    nothing of earlier ones is in its result. Ids are not used again.

    Args:
        options: how often the detector runs.
        clock: monotonic clock in seconds that the times of frames are measured with.

    Attributes:
        options: as given.
        resets: number of resets by itself.
        reset_reason: of the last reset.
    """

    def __init__(
        self, options: TemporalOptions | None = None, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.options = options or TemporalOptions()
        self.clock = clock
        self.schedule = DetectionSchedule(self.options)
        self.resets = 0
        self.reset_reason: ResetReason = "start"
        self.next_id = 0
        self._size: tuple[int, int] | None = None
        self._time_s: float | None = None
        self._luma: Luma | None = None
        self._carried: Carried | None = None

    @property
    def age(self) -> int | None:
        """Frames since the detector ran; None if nothing is carried."""
        return None if self._carried is None else self._carried.age

    def reset(self) -> None:
        """Forget the frames so far, such as before another scene."""
        self._forget("by hand")

    def arrive(
        self, size: tuple[int, int], time_s: float | None, luma: Luma, stride: float
    ) -> tuple[Carried, Motion] | None:
        """What earlier frames know about the next one; None if they have nothing to do with it.

        Args:
            size: (h, w) of the frame.
            time_s: of the frame, or None.
            luma: of the frame.
            stride: pixels of the network's frame per pixel of the canvas.
        """
        if self._carried is None or self._luma is None:
            return None
        if size != self._size or luma.shape != self._luma.shape:
            return self._reset_itself("size")
        if time_s is not None and self._time_s is not None:
            passed = time_s - self._time_s
            if passed < -_SAME_TIME_S or passed > self.options.max_gap_s:
                return self._reset_itself("gap")
        motion = Motion.between(self._luma, luma, self.options.carry == "flow")
        if motion.change > self.options.least_cut:
            return self._reset_itself("cut")
        return self._carried, motion

    def keep(self, size: tuple[int, int], time_s: float | None, luma: Luma, carried: Carried) -> None:
        """Remember a frame, for the next one."""
        self._size, self._time_s, self._luma, self._carried = size, time_s, luma, carried

    def _reset_itself(self, reason: ResetReason) -> tuple[Carried, Motion] | None:
        self.resets += 1
        self._forget(reason)
        return None

    def _forget(self, reason: ResetReason) -> None:
        self.reset_reason = reason
        self._size = self._time_s = self._luma = self._carried = None
