# SPDX-License-Identifier: Apache-2.0
"""Overlay sinks, selected by output path: a video file, images, or ``null:``."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Literal

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.files import fixed
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import InvalidInput, OutputError
from imp_trt.video.encoder import VIDEO_CODECS
from imp_trt.video.sinks.images import OverlayImages, safe_name
from imp_trt.video.sinks.sink import BaseSink, NullSink, SegmentedFrame, Sink
from imp_trt.video.writer import EncoderName, VideoWriter

_log = logging.getLogger(__name__)

DEFAULT_FPS = 25.0
"""Frame rate of a video made from images, or from a container without a frame rate."""

FrameRates = float | Mapping[str, float | None] | None
"""Frame rate of a video, or of that of each source by its short name; None for DEFAULT_FPS."""

TimeSource = Literal["container", "capture", "constant"]

TIMES: tuple[TimeSource, ...] = ("container", "capture", "constant")
"""Source of the frame times of a video: Frame.time_s, Frame.captured_s, or the frame rate."""


class OverlayVideo(BaseSink):
    """Writes overlays to a video file, with several sources to one file each: ``out_front.mp4`` for "front".

    If frames of a video or camera change their size, the next file is ``out-2.mp4``, or has the first free
    number; a warning names it. Still images of different sizes are an error.

    Args:
        path: see :class:`imp_trt.video.writer.VideoWriter`.
        fps: frame rate, None for DEFAULT_FPS; frames that have a time keep it. With several sources,
            also a mapping from the name of a source (SegmentedFrame.source) to its rate.
        times: one of TIMES. "container" keeps the frame times of the source file, including variable frame
            rates. "capture" is for live sources whose frames have no times, so that dropped frames do not
            make the recording run faster.
        encoder: see :class:`imp_trt.video.writer.VideoWriter`.

    Raises:
        InvalidInput: times is unknown.
        OutputError: see :class:`imp_trt.video.writer.VideoWriter`.
    """

    draws = True
    recovers = True  # every video is verified when it is closed

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: FrameRates,
        *,
        times: TimeSource = "container",
        encoder: EncoderName | None = None,
    ) -> None:
        if times not in TIMES:
            raise InvalidInput("times", expected=f"one of {', '.join(TIMES)}", got=times)
        self._path = fixed(path)
        self._fps = fps
        self._times = times
        self._encoder: EncoderName | None = encoder
        # The file for a single source is opened now, so that an unwritable path fails early.
        self._writers = {"": self._new_writer("", self._path)}
        self._used: set[str] = set()
        self._done = False

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if self._done:
            raise OutputError(f"video {self._path} cannot be written", got="a closed sink")
        writer = self._writers.get(item.source)
        if writer is None:
            writer = self._new_writer(item.source, self._path_of(item.source))
            self._writers[item.source] = writer
        frame = item.frame
        size = (item.overlay.shape[0], item.overlay.shape[1])
        if writer.size not in (None, size) and frame.time_s is not None:
            writer = self._next_file(item.source, size)
        self._used.add(item.source)
        time_s = {"container": frame.time_s, "capture": frame.captured_s}.get(self._times)
        writer.write(item.overlay, time_s)
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        with ExitStack() as closing:  # a writer that fails to close does not affect the others
            closing.callback(self.abort)
            for source, writer in self._writers.items():
                if source in self._used or not self._used:
                    closing.callback(writer.close)

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._done = True
        for writer in self._writers.values():
            writer.abort()

    def _next_file(self, source: str, size: tuple[int, int]) -> VideoWriter:
        """Complete the file of a source and start another one for frames of another size."""
        self._writers[source].close()
        path = self._path_of(source)
        numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
        free = next(other for other in numbered if not os.path.lexists(other))
        _log.warning(
            "%s frames are %dx%d from now on; the recording continues in %s",
            f"{source}:" if source else "the",
            size[1],
            size[0],
            free,
        )
        writer = self._writers[source] = self._new_writer(source, free)
        return writer

    def _new_writer(self, source: str, path: Path) -> VideoWriter:
        fps = self._fps.get(source) if isinstance(self._fps, Mapping) else self._fps
        return VideoWriter(path, fps or DEFAULT_FPS, encoder=self._encoder)

    def _path_of(self, source: str) -> Path:
        if not source:
            return self._path
        return self._path.with_name(f"{self._path.stem}_{safe_name(source)}{self._path.suffix}")


@renamed_parameters(place="path")
def overlay_sink(path: str | os.PathLike[str], fps: FrameRates, *, times: TimeSource = "container") -> Sink:
    """Create the overlay sink for a path: a video file, images, or ``null:``.

    Args:
        path: ``*.mp4`` or another video file, ``null:``, an image file, a pattern, or a folder.
        fps: frame rate of a video, or of each source; None for DEFAULT_FPS, see :class:`OverlayVideo`.
        times: source of the frame times of a video, see :class:`OverlayVideo`.

    Raises:
        OutputError: the path cannot be written or has an unknown suffix.
    """
    text = os.fspath(path)
    if text == "null:":
        return NullSink()
    suffix = Path(text).suffix.lower()
    if suffix in VIDEO_CODECS:
        return OverlayVideo(path, fps, times=times)
    if suffix in IMAGE_SUFFIXES or not suffix or Path(text).is_dir() or text.endswith(os.sep):
        return OverlayImages(path)
    endings = ", ".join(end for end in (*VIDEO_CODECS, *IMAGE_SUFFIXES) if end != ".pgm")  # without colors
    raise OutputError(
        f"sink {text}",
        expected=f"a folder, or a file that ends with {endings}",
        got=suffix,
    )
