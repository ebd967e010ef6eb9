"""Where results go. A sink's files appear whole when it is closed, or not at all when it is aborted."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import OutputError
from imp_trt.files import make_folder, temporary_beside, unwritable, write_atomically
from imp_trt.images import IMAGE_SUFFIXES, encode_image
from imp_trt.result import DRAWN_SCORE, SegmentationResult
from imp_trt.video.sources import Frame
from imp_trt.video.writer import VIDEO_CODECS, VideoWriter

DEFAULT_FPS = 25.0
"""Frame rate of a video made from images, or from a container that does not say."""


@dataclass(frozen=True)
class DrawOptions:
    """How overlays look; see :meth:`imp_trt.SegmentationResult.plot`."""

    alpha: float = 0.5
    min_score: float = DRAWN_SCORE
    labels: bool = True
    legend: bool = False


@dataclass(frozen=True, eq=False)
class Segmented:
    """A frame with its result; the overlay is drawn once, when the first sink asks for it."""

    frame: Frame
    result: SegmentationResult
    draw: DrawOptions = field(default_factory=DrawOptions)

    @cached_property
    def overlay(self) -> NDArray[np.uint8]:
        """[h, w, 3] uint8 BGR; not to be changed, sinks share it."""
        d = self.draw
        return self.result.plot(
            self.frame.image, alpha=d.alpha, min_score=d.min_score, labels=d.labels, legend=d.legend
        )


class Sink(Protocol):
    """A context manager: closes after a clean end, aborts after an exception."""

    def write(self, item: Segmented) -> bool:
        """Take one result; False asks the caller to stop (someone closed the window).

        Raises:
            OutputError: it cannot be written.
        """
        ...

    def close(self) -> None:
        """Finish; the files are whole and in place afterwards. Idempotent."""
        ...

    def abort(self) -> None:
        """Give up; nothing half-written stays. Idempotent."""
        ...

    def __enter__(self) -> Sink: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Base:
    """A sink that keeps nothing; the others override what they need."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""


class NullSink(Base):
    """Takes everything, keeps nothing: for measuring."""


class OverlayVideo(Base):
    """Overlays as one video file.

    Raises:
        OutputError: see :class:`imp_trt.video.writer.VideoWriter`.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float | None) -> None:
        self._writer = VideoWriter(path, fps or DEFAULT_FPS)

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        self._writer.write(item.overlay)
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        self._writer.close()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._writer.abort()


class _Pictures(Base, ABC):
    """One picture per frame, each written whole.

    Args:
        place: a folder (files are named after the frames), a pattern with one number such as
            ``out/%06d.png``, or a single image file for a source of one frame.
        suffix: format of the files in a folder.
    """

    def __init__(self, place: str | os.PathLike[str], suffix: str = ".png") -> None:
        text = os.fspath(place)
        self._suffix = suffix
        self._pattern = text if re.fullmatch(r"[^%]*%0?\d*d[^%]*", text) else None
        path = Path(text)
        if self._pattern is None and path.suffix.lower() not in IMAGE_SUFFIXES:
            self._folder: Path | None = path
        else:
            self._folder = None
        self._file = path
        if path.suffix.lower() in IMAGE_SUFFIXES:
            self._suffix = path.suffix.lower()
        make_folder(self._folder or path.parent)
        self._written = 0

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        if self._folder is not None:
            path = self._folder / f"{item.frame.name}{self._suffix}"
        elif self._pattern is not None:
            path = Path(self._pattern % item.frame.index)
        elif self._written:
            raise OutputError(
                f"{self._file} holds one picture",
                expected="one frame",
                got="a second one",
                fix="name a folder, a pattern such as out/%06d.png, or a video file",
            )
        else:
            path = self._file
        write_atomically(path, encode_image(self._picture(item), self._suffix), sync=False)
        self._written += 1
        return True

    @abstractmethod
    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        """What is written for a frame: [h, w, 3] BGR or [h, w] uint8."""


class OverlayPictures(_Pictures):
    """Overlays as image files."""

    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        return item.overlay


class ClassMaps(_Pictures):
    """Class maps as 8-bit one-channel PNGs, pixel = class index.

    Raises:
        OutputError: a file name that is not .png: lossy formats would invent classes.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        suffix = Path(place).suffix.lower()
        if suffix in IMAGE_SUFFIXES and suffix != ".png":
            raise OutputError(f"class maps in {place}", expected="a folder or .png files", got=suffix)
        super().__init__(place)

    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        return item.result.semantic


class JsonLines(Base):
    """One line of JSON per frame: index, name, time_s, and the result's to_dict.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], min_score: float = DRAWN_SCORE) -> None:
        self._path = Path(path)
        self._min_score = min_score
        self._lines: list[str] = []
        self._done = False
        if self._path.is_dir():
            raise OutputError(f"{self._path} cannot be written", expected="a file", got="a folder")
        make_folder(self._path.parent)
        # Opened now, so that an unwritable place is reported before hours of work.
        self._temporary = temporary_beside(self._path)
        try:
            self._file = self._temporary.__enter__().open("x", encoding="utf-8")
        except OSError as error:
            raise unwritable(self._path, error) from error

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        frame = item.frame
        line = {"index": frame.index, "name": frame.name, "time_s": frame.time_s}
        line.update(item.result.to_dict(self._min_score))
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise unwritable(self._path, error) from error
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        if self._done:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            os.replace(self._file.name, self._path)
        except OSError as error:
            raise unwritable(self._path, error) from error
        finally:
            self.abort()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        if not self._done:
            self._done = True
            self._file.close()
            self._temporary.__exit__(None, None, None)


class Window(Base):
    """Overlays in a window; q or Escape, or closing it, asks to stop.

    Raises:
        OutputError: OpenCV was built without windows.
    """

    def __init__(self, title: str = "imp-trt (q quits)") -> None:
        self._title = title
        self._shown = False

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        try:
            cv2.imshow(self._title, item.overlay)
            key = cv2.waitKey(1) & 0xFF
            closed = self._shown and cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise OutputError("no window can be opened", got=error, fix="pass --headless") from error
        self._shown = True
        return key not in (ord("q"), 27) and not closed

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        if self._shown:
            self._shown = False
            cv2.destroyAllWindows()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self.close()


def overlay_sink(place: str | os.PathLike[str], fps: float | None) -> Sink:
    """The sink for overlays that a place asks for: a video file, pictures, or ``null:``.

    Args:
        place: ``*.mp4`` and other video files, ``null:``, an image file, a pattern, or a folder.
        fps: frame rate of a video; None for DEFAULT_FPS.

    Raises:
        OutputError: the place cannot be written or has an unknown suffix.
    """
    text = os.fspath(place)
    if text == "null:":
        return NullSink()
    suffix = Path(text).suffix.lower()
    if suffix in VIDEO_CODECS:
        return OverlayVideo(place, fps)
    if suffix in IMAGE_SUFFIXES or not suffix or Path(text).is_dir() or text.endswith(os.sep):
        return OverlayPictures(place)
    raise OutputError(
        f"sink {text}",
        expected=f"a folder, or a file that ends with {', '.join((*VIDEO_CODECS, *IMAGE_SUFFIXES))}",
        got=suffix,
    )
