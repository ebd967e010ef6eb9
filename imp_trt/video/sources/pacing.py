# SPDX-License-Identifier: Apache-2.0
"""Times of the frames of a stream that arrive in bursts, such as those of HLS: seconds of video at once."""

from __future__ import annotations

import math

MAX_LAG_S = 10.0
"""How far a slow consumer may fall behind a paced stream before frames are dropped. The frames in between are
in the stream's own buffer, compressed: at the server, or in FFmpeg."""

# A clock of the stream that is slower or faster than this machine's must not let the lag grow for hours.
_CATCH_UP = 1.001
_MAX_STEP_S = 60.0
_MIN_STEP_S = 1e-3


class StreamClock:
    """Maps the positions of frames in a stream to times, and to the moments at which they are due.

    Times are those of the stream. Where its positions jump, as after a reconnection, the time that passed is
    taken instead. Waiting for the stream delays all frames after it; waiting for the consumer does not, so
    that the consumer catches up.
    """

    def __init__(self) -> None:
        self._position_s = math.nan
        self._time_s = 0.0
        self._due_s: float | None = None

    def restart(self) -> None:
        """Forget the position: the stream was reconnected."""
        self._position_s = math.nan

    def place(self, position_s: float, ready_s: float, read_s: float) -> tuple[float, float]:
        """Return the time of a frame in the stream, from 0, and when it is due, both in seconds.

        Args:
            position_s: its position as reported by the decoder; NaN if unknown.
            ready_s: time at which reading it began, on any monotonic clock; due times are on it too.
            read_s: time at which reading it ended.
        """
        if self._due_s is None:
            self._due_s = read_s
        else:
            step_s = position_s - self._position_s
            if not 0 < step_s <= _MAX_STEP_S:  # true for NaN
                step_s = max(read_s - self._due_s, _MIN_STEP_S)
            self._time_s += step_s
            due_s = self._due_s + step_s / _CATCH_UP
            self._due_s = due_s + max(read_s - max(due_s, ready_s), 0.0)
        self._position_s = position_s
        return self._time_s, self._due_s
