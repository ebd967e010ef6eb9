# SPDX-License-Identifier: Apache-2.0
"""Sources that read files: images and videos."""

from __future__ import annotations

import glob
import logging
import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import resolved
from imp_trt.data.images import IMAGE_SUFFIXES, read_image
from imp_trt.data.memory import MEMORY_FIX, memory_is_short
from imp_trt.data.native_calls import call_after_fork
from imp_trt.errors import SourceError
from imp_trt.video.containers import (
    declared_crop,
    is_encrypted,
    is_list,
    lists_frames,
    missing_bytes,
    shown_share,
)
from imp_trt.video.sources.captures import Capture
from imp_trt.video.sources.decoder import OnlyCover, PyAvCapture, opencv_capture, pyav_decodes
from imp_trt.video.sources.frame import Frame
from imp_trt.video.sources.source import ClosingSource, Source, warn_of_no_frames

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")

_OTHER_IMAGES = frozenset(
    ".apng .arw .avif .cr2 .cr3 .dib .dng .exr .gif .hdr .heic .heif .j2k .jfif .jp2 .jpe .jxl .nef .orf "
    ".pbm .pcx .pfm .pic .pnm .psd .raf .rw2 .svg .tga .xcf".split()
)
_OTHER_VIDEOS = frozenset(
    ".264 .265 .3gp .asf .h264 .h265 .hevc .m2ts .mjpeg .mjpg .mts .mxf .ogv .vob .y4m".split()
)
_MAX_NAMES = 3
_MAX_WAITING = 2  # frames
_MAX_BACK_S = 0.5  # OpenCV's times of reordered frames may go back a little
_MAX_SEARCHED = 100  # folders below a sub-folder

_log = logging.getLogger(__name__)
_warned: set[str] = set()


class ImageSource(ClosingSource):
    """Image files, read one at a time. See :class:`Source`.

    Of several images, those that cannot be read are skipped with a warning. Frame indices count them.

    Args:
        strict: raise instead of skipping an image.

    Attributes:
        skipped: the images that this iteration has skipped so far, with the reason.

    Raises:
        SourceError: during iteration: an image cannot be read, and strict is set or it is the only one; or
            at the end, if none could be read.
    """

    fps: float | None = None
    live = False

    def __init__(self, name: str, paths: Sequence[Path], *, strict: bool = False) -> None:
        self.name = name
        self.frames: int | None = len(paths)
        self.paths = tuple(paths)
        self.skipped: list[tuple[Path, str]] = []
        self._folder = resolved(os.curdir)  # the program may change it before the images are read
        self._strict = strict or len(paths) == 1
        stems = [path.stem for path in paths]
        # Outputs are named after frames, so a.png and a.jpg, or equal names in two folders, need an index.
        unique = len(set(stems)) == len(stems)
        self._names = stems if unique else [f"{i:06d}_{stem}" for i, stem in enumerate(stems)]

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = []  # unlike a video, images can be read again
        for index, path in enumerate(self.paths):
            try:
                image = read_image(self._folder / path)
            except SourceError as error:
                if self._strict:
                    raise
                self.skipped.append((path, str(error)))
                _log.warning("skipped: %s", error)
                continue
            yield Frame(image, index, self._names[index], None)
        if len(self.skipped) == len(self.paths):
            raise SourceError(
                f"source {self.name}",
                expected="images that can be read",
                got=f"{len(self.paths)} that cannot",
                fix="copy them again",
            )


class VideoSource(ClosingSource):
    """A recorded video, decoded by PyAV if it is installed, otherwise by OpenCV. See :class:`Source`.

    The first frame is decoded when the file is opened, so that a file without a video stream fails early.
    A warning is logged for properties of the stream that are not honored, and at the end if fewer than 98 %
    of the frames, or of the duration, that the container lists could be decoded.

    Args:
        path: the file; or the address that capture reads, without credentials.
        captures: captures of an address, of which the first that gives a frame is used and closed with the
            source; or a single one.

    Raises:
        SourceError: missing, not a regular file, empty, truncated, damaged, or without a video stream.
    """

    live = False

    def __init__(
        self, path: str | os.PathLike[str], captures: Capture | Iterator[Capture] | None = None
    ) -> None:
        self.name = os.fspath(path)
        self.paths: tuple[Path, ...] = () if captures else (Path(path),)
        self._capture: Capture | None = None
        self._in_use = Lock()
        self._closed = False
        self._ended = False
        self._decoded = 0
        self._last_time_s = 0.0
        self._goes_back = False
        call_after_fork(self)
        self._listed = captures is None and _lists_frames(Path(path))
        self._first = None
        for candidate in _candidates(Path(path), captures):
            self._capture = candidate
            self._first = self._read()
            if self._first is not None:
                break
            candidate.release()
        if self._first is None or self._capture is None:
            self.close()
            if memory_is_short():
                raise SourceError(
                    f"video {path}", expected="enough memory to decode it", got="too little", fix=MEMORY_FIX
                )
            raise SourceError(
                f"video {path}",
                expected="a video stream that can be decoded",
                got="none: audio only, damaged, or an unknown codec",
                fix="if it plays in another program, convert it to H.264 in MP4"
                + ("" if pyav_decodes() else ", or pip install 'imp-trt[video]', which decodes more codecs"),
            )
        self._decoder = "PyAV" if isinstance(self._capture, PyAvCapture) else "OpenCV"
        crop = declared_crop(self.paths[0]) if self.paths else ""
        if crop:
            _log.warning("%s: its %s is not applied; frames are processed as stored", path, crop)
        count, fps = (self._capture.get(p) for p in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        self.frames: int | None = int(count) if 0 < count < 1e9 else None
        if self.frames and self._listed and not isinstance(self._capture, PyAvCapture):
            self.frames = max(1, round(self.frames * shown_share(Path(path))))  # OpenCV counts hidden frames
        self.fps: float | None = float(fps) if math.isfinite(fps) and 0 < fps <= 1000 else None

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: another thread may have held the lock."""
        self._in_use = Lock()

    @property
    def decoder(self) -> str:
        """The library that decodes it: PyAV or OpenCV."""
        return self._decoder

    def __enter__(self) -> Source:
        return self

    def __iter__(self) -> Iterator[Frame]:
        if self._ended or self._closed:
            warn_of_no_frames(self.name, self._closed)
        while self._capture is not None and not self._ended:
            decoded, self._first = self._first or self._read(), None
            if decoded is None:
                if not self._closed:
                    self._ended = True
                    self._check_count()
                return
            image, time_s = decoded
            index, self._decoded = self._decoded, self._decoded + 1
            yield Frame(image, index, f"{index:06d}", time_s)

    def close(self) -> None:
        """Release the file, after any read in progress in another thread; idempotent."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        if self._in_use.acquire(blocking=False):
            capture, self._capture = self._capture, None
            self._in_use.release()
            if capture is not None:
                capture.release()

    def _check_count(self) -> None:
        # What was decoded is kept: a list of frames may be wrong, and decoding again gives no more.
        listed, decoded = self.frames or 0, self._decoded
        if self.fps and not self._listed:
            # The number is estimated as duration times nominal rate. The actual rate may be lower, and the
            # duration of ASF includes the time for which reordered frames wait.
            decoded = max(decoded, round(self._last_time_s * self.fps) + 1) + _MAX_WAITING
        if decoded < 0.98 * listed:
            _log.warning(
                "%s lists %d frames; %d could be decoded. It is trimmed, damaged or incomplete",
                self.name,
                listed,
                self._decoded,
            )

    def _read(self) -> tuple[NDArray[np.uint8], float | None] | None:
        with self._in_use:
            capture = self._capture
            if capture is None:
                return None
            done, image = capture.read()
            milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
        if self._closed:
            self._release()
            return None
        if not done or image is None:
            return None
        unknown = not (math.isfinite(milliseconds) and milliseconds >= 0)
        # OpenCV gives 0 for the last frames of an AVI whose frames are reordered.
        if unknown or (milliseconds == 0 and self._last_time_s > 0 and not isinstance(capture, PyAvCapture)):
            return image, None
        time_s = milliseconds / 1e3
        if time_s < self._last_time_s - _MAX_BACK_S and not self._goes_back:
            self._goes_back = True
            text = "%s: at frame %d, times go back from %.2f to %.2f s, as where recordings were joined"
            _log.warning(text, self.name, self._decoded, self._last_time_s, time_s)
        self._last_time_s = max(self._last_time_s, time_s)
        return image, time_s


def _lists_frames(path: Path) -> bool:
    try:
        return path.is_file() and lists_frames(path)
    except OSError:
        return False  # reported in more detail when it is opened


def _candidates(path: Path, captures: Capture | Iterator[Capture] | None) -> Iterator[Capture]:
    if captures is None:
        return _captures(path)
    return captures if isinstance(captures, Iterator) else iter([captures])


def _captures(path: Path) -> Iterator[Capture]:
    """Open captures of a file, the preferred decoder first.

    Raises:
        SourceError: it is missing, not a regular file, empty, truncated or encrypted.
    """
    try:
        status = path.stat()
        regular = stat.S_ISREG(status.st_mode)
        missing = missing_bytes(path) if regular else 0
        encrypted, listing = regular and is_encrypted(path), regular and is_list(path)
    except OSError as error:
        raise SourceError(f"video {path}", expected="a readable file", got=error.strerror) from error
    if not regular:
        raise SourceError(f"video {path}", expected="a regular file", got="a folder, device or pipe")
    if not status.st_size or missing:
        raise SourceError(
            f"video {path}",
            expected="a complete file",
            got=f"a file truncated by {missing} bytes" if status.st_size else "an empty file",
            fix="copy or record it again",
        )
    if listing:
        raise SourceError(
            f"video {path}",
            expected="a video",
            got="a playlist, a text that names other files",
            fix="pass those, or the address of the playlist",
        )
    if encrypted:
        raise SourceError(
            f"video {path}",
            expected="a video that is not encrypted",
            got="an encrypted one, as of a streaming service (DRM)",
            fix="decrypt it with its key, for example by ffmpeg -decryption_key",
        )
    if pyav_decodes():
        try:
            capture = PyAvCapture(path.resolve())
            yield capture
            if capture.has_cover:
                return
        except OnlyCover:
            return
        except OSError as error:
            _log.debug("PyAV does not open %s: %s", path, error)
    yield opencv_capture(path.resolve())


def natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key for natural order: frame2 before frame10; frame02 and frame2 in the order of their letters."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts], str(path)


def images_in(folder: Path) -> list[Path]:
    """Return the image files in a folder in natural order; SourceError if there are none.

    Images of other formats, videos and sub-folders with images are not read: a warning names them, once.
    """
    try:
        shown = [p for p in folder.iterdir() if not p.name.startswith(".")]
        names = [p for p in shown if not p.is_dir()]  # a link without its target is an image that is skipped
        unread = _unread(names, [p for p in shown if p.is_dir()])
    except OSError as error:
        raise SourceError(f"folder {folder}", expected="a readable folder", got=error.strerror) from error
    images = sorted((p for p in names if p.suffix.lower() in IMAGE_SUFFIXES), key=natural_key)
    if not images:
        raise SourceError(
            f"folder {folder}",
            expected="images in it",
            got=unread or f"{len(names)} files, none of them an image",
            fix="convert them, or pass a sub-folder or video" if unread else None,
        )
    text = f"folder {folder}: not read: {unread}"
    if unread and text not in _warned:
        _warned.add(text)
        _log.warning("%s", text)
    return images


def _unread(files: Sequence[Path], folders: Sequence[Path]) -> str:
    """What a folder has besides the images that are read: numbers and some names, or ""."""
    suffixes = [(path, path.suffix.lower()) for path in files]
    kinds = {
        f"images of other formats than {' '.join(IMAGE_SUFFIXES)}": [
            path for path, suffix in suffixes if suffix in _OTHER_IMAGES
        ],
        "videos": [path for path, suffix in suffixes if suffix in VIDEO_SUFFIXES or suffix in _OTHER_VIDEOS],
        "sub-folders with images": [path for path in folders if _has_images(path)],
    }
    return ", ".join(f"{len(found)} {kind} ({_some(found)})" for kind, found in kinds.items() if found)


def _has_images(folder: Path) -> bool:
    return any(
        name.lower().endswith(IMAGE_SUFFIXES)
        for _, _, names in islice(os.walk(folder), _MAX_SEARCHED)
        for name in names
    )


def _some(paths: Sequence[Path]) -> str:
    names = [path.name for path in sorted(paths, key=natural_key)[:_MAX_NAMES]]
    return ", ".join(names) + (", ..." if len(paths) > _MAX_NAMES else "")


def images_matching(pattern: str) -> list[Path]:
    """Return the image files that match a pattern in natural order; SourceError if there are none."""
    folder, name = os.path.split(pattern)
    # The brackets of a folder named run[1] are not part of the pattern.
    names = glob.glob(pattern, recursive=True) or glob.glob(os.path.join(glob.escape(folder), name))
    images = sorted((Path(p) for p in names), key=natural_key)
    if not images:
        raise SourceError(
            f"pattern {pattern}", expected="at least one file", got="none", fix="check the path"
        )
    other = next((p for p in images if p.suffix.lower() not in IMAGE_SUFFIXES or not p.is_file()), None)
    if other is not None:
        raise SourceError(
            f"pattern {pattern}", expected="images only", got=other, fix="narrow it, e.g. 'folder/*.png'"
        )
    return images
