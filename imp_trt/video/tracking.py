# SPDX-License-Identifier: Apache-2.0
"""Track ids over the frames of a video, by ByteTrack from the package trackers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import DependencyMissing, InvalidInput
from imp_trt.results.result import SegmentationResult

if TYPE_CHECKING:
    from trackers import ByteTrackTracker

DEFAULT_ACTIVATION_SCORE = 0.5
"""Default minimum score of an instance that starts a track."""

DEFAULT_LOST_S = 1.0
"""Default time in seconds for which a lost object keeps its track id."""

_SAME_TIME_S = 1e-3


class Tracker:
    """Gives the instances of consecutive frames track ids.

    ByteTrack (Zhang et al., ECCV 2022) predicts each track's box with a Kalman filter and associates boxes
    by IoU, those with high scores first; classes are not compared. An object gets its id in the second frame
    in which it is found. One Tracker per video or camera.

    Instances that are carried from frame to frame (Segmenter.stream with detect_every) keep their track ids
    until they are lost, also where the tracker would mistake one for another: the flow knows better. A
    carried frame counts as one in which the object is found.

    >>> tracker = Tracker(frame_rate=30)
    >>> for result in segmenter.stream(frames):
    ...     result = tracker.update(result)
    ...     print(result.instances.track_ids)

    Args:
        frame_rate: frames per second, for frames without a time.
        activation_score: minimum score of an instance that starts a track, 0-1. Instances with lower scores
            only continue tracks.
        lost_s: seconds for which a lost object keeps its id.

    Raises:
        InvalidInput: an argument is out of its range.
        DependencyMissing: the package trackers is not installed.
    """

    def __init__(
        self,
        frame_rate: float = 30.0,
        *,
        activation_score: float = DEFAULT_ACTIVATION_SCORE,
        lost_s: float = DEFAULT_LOST_S,
    ) -> None:
        if not 0 < frame_rate < float("inf"):
            raise InvalidInput("frame_rate", expected="frames per second above 0", got=frame_rate)
        if not 0 <= activation_score <= 1:
            raise InvalidInput("activation_score", expected="0 to 1", got=activation_score)
        if not 0 <= lost_s < float("inf"):
            raise InvalidInput("lost_s", expected="0 seconds or more", got=lost_s)
        self._frame_rate = frame_rate
        self._activation_score = activation_score
        self._lost_s = lost_s
        self._size: tuple[int, int] | None = None
        self._time_s: float | None = None
        self._first_id = 0
        self._highest_id = -1
        self._tracker = self._new_tracker()
        self._chains = _Chains()

    def update(self, result: SegmentationResult, time_s: float | None = None) -> SegmentationResult:
        """The result of the next frame with track ids.

        Tracks are dropped, and ids go on, if the size of the frames changes or time runs backward.

        Args:
            result: of the next frame; not changed. From an engine, its instances are downloaded.
            time_s: time of the frame in seconds; None for frames at the frame rate. Either every frame has
                a time or none has.

        Returns:
            the result with instances.track_ids, everything else as it was.
        """
        from supervision import Detections

        if time_s is not None and self._time_s is not None:
            if time_s < self._time_s - _SAME_TIME_S:
                self.reset()
            else:  # a frame shown twice is a moment later: the filter takes no steps of zero
                time_s = max(time_s, self._time_s + 1e-6)
        if self._size is not None and result.size != self._size:
            self.reset()
        self._size, self._time_s = result.size, time_s
        instances = result.instances
        detections = Detections(
            xyxy=instances.boxes.copy(),
            confidence=instances.scores.copy(),
            data={"index": np.arange(len(instances))},
        )
        tracked = self._tracker.update(detections, timestamp=time_s)
        track_ids = np.full(len(instances), -1, np.int32)
        if len(tracked) and tracked.tracker_id is not None:
            found = np.asarray(tracked.tracker_id)
            track_ids[np.asarray(tracked.data["index"], np.intp)] = np.where(
                found < 0, -1, found + self._first_id
            )
            self._highest_id = max(self._highest_id, int(track_ids.max()))
        if instances.ages is not None and instances.track_ids is not None:
            track_ids = self._chains.keep(instances.track_ids, track_ids)
        return replace(result, instances=replace(instances, track_ids=track_ids))

    def reset(self) -> None:
        """Drop all tracks, for a cut or another scene; ids are not used again."""
        self._first_id = self._highest_id + 1
        self._size = self._time_s = None
        self._tracker = self._new_tracker()
        self._chains = _Chains()

    def _new_tracker(self) -> ByteTrackTracker:
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise DependencyMissing(
                "tracking",
                expected="the package trackers",
                got=str(error),
                fix="pip install 'imp-trt[track]'",
            ) from error
        return ByteTrackTracker(
            lost_track_buffer=round(30 * self._lost_s),
            frame_rate=self._frame_rate,
            track_activation_threshold=self._activation_score,
            high_conf_det_threshold=self._activation_score,
        )


class _Chains:
    """Keeps the track id of an object for as long as it is carried from frame to frame."""

    def __init__(self) -> None:
        self._shown: dict[int, int] = {}  # id of a carried object -> its track id; those of the last frame
        self._aliases: dict[
            int, int
        ] = {}  # the tracker's id -> the track id of the same object, if it differs

    def keep(self, carried: NDArray[np.int32], found: NDArray[np.int32]) -> NDArray[np.int32]:
        """The track ids [N] of a frame.

        Args:
            carried: [N], ids of the objects that the carried ones were matched by.
            found: [N], what the tracker says, -1 for nothing.
        """
        kept = np.array([self._shown.get(own, -1) for own in carried.tolist()], np.int32)
        taken = set(kept.tolist())
        for i, theirs in enumerate(map(int, found)):
            if kept[i] >= 0:
                if theirs >= 0:
                    self._aliases[theirs] = int(kept[i])
                continue
            track: int = self._aliases.get(theirs, theirs)
            if track >= 0 and track not in taken:
                kept[i] = track
                taken.add(track)
        self._aliases = {theirs: track for theirs, track in self._aliases.items() if theirs != track}
        self._shown = {
            own: track for own, track in zip(carried.tolist(), kept.tolist(), strict=True) if track >= 0
        }
        return kept
