"""Overlays to the place that a name asks for: a video file, pictures, or nowhere."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import InvalidInput, OutputError
from imp_trt.video.encoder import VIDEO_CODECS
from imp_trt.video.sinks.pictures import OverlayPictures, safe_name
from imp_trt.video.sinks.sink import Base, NullSink, Segmented, Sink
from imp_trt.video.writer import VideoWriter

DEFAULT_FPS = 25.0
"""Frame rate of a video made from images, or from a container that does not say."""

TIMES = ("container", "capture", "constant")
"""What a video's frames are timed by: Frame.time_s, Frame.captured_s, or the frame rate alone."""


class OverlayVideo(Base):
    """Overlays as one video file, or one for each source: ``out.mp4``, or ``out_front.mp4`` of "front".

    Args:
        path: see :class:`imp_trt.video.writer.VideoWriter`.
        fps: frame rate, None for DEFAULT_FPS; frames that have a time keep it.
        times: one of TIMES. "container" keeps what a file's own frames are timed by, variable rates too.
            "capture" is for live sources whose frames have no times: what was dropped does not make the
            recording run faster.
        encoder: see :class:`imp_trt.video.writer.VideoWriter`.

    Raises:
        InvalidInput: times is unknown.
        OutputError: see :class:`imp_trt.video.writer.VideoWriter`.
    """

    draws = True
    recovers = True  # every video is read back before it is put in place

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float | None,
        *,
        times: str = "container",
        encoder: str | None = None,
    ) -> None:
        if times not in TIMES:
            raise InvalidInput("times", expected=f"one of {', '.join(TIMES)}", got=times)
        self._path = Path(path)
        self._fps = fps or DEFAULT_FPS
        self._times = times
        self._encoder = encoder
        # The one without a source is opened now, so that an unwritable place shows before the work.
        self._writers = {"": VideoWriter(self._path, self._fps, encoder=encoder)}
        self._used: set[str] = set()
        self._done = False

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        if self._done:
            raise OutputError(f"video {self._path} cannot be written", got="a closed sink")
        writer = self._writers.get(item.source)
        if writer is None:
            writer = self._writers[item.source] = self._open(item.source)
        self._used.add(item.source)
        frame = item.frame
        time_s = {"container": frame.time_s, "capture": frame.captured_s}.get(self._times)
        writer.write(item.overlay, time_s)
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        with ExitStack() as closing:  # one that cannot be finished does not take the others along
            closing.callback(self.abort)
            for source, writer in self._writers.items():
                if source in self._used or not self._used:
                    closing.callback(writer.close)

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._done = True
        for writer in self._writers.values():
            writer.abort()

    def _open(self, source: str) -> VideoWriter:
        path = self._path.with_name(f"{self._path.stem}_{safe_name(source)}{self._path.suffix}")
        return VideoWriter(path, self._fps, encoder=self._encoder)


def overlay_sink(place: str | os.PathLike[str], fps: float | None, *, times: str = "container") -> Sink:
    """The sink for overlays that a place asks for: a video file, pictures, or ``null:``.

    Args:
        place: ``*.mp4`` and other video files, ``null:``, an image file, a pattern, or a folder.
        fps: frame rate of a video; None for DEFAULT_FPS.
        times: what the frames of a video are timed by, see :class:`OverlayVideo`.

    Raises:
        OutputError: the place cannot be written or has an unknown suffix.
    """
    text = os.fspath(place)
    if text == "null:":
        return NullSink()
    suffix = Path(text).suffix.lower()
    if suffix in VIDEO_CODECS:
        return OverlayVideo(place, fps, times=times)
    if suffix in IMAGE_SUFFIXES or not suffix or Path(text).is_dir() or text.endswith(os.sep):
        return OverlayPictures(place)
    raise OutputError(
        f"sink {text}",
        expected=f"a folder, or a file that ends with {', '.join((*VIDEO_CODECS, *IMAGE_SUFFIXES))}",
        got=suffix,
    )
