# SPDX-License-Identifier: Apache-2.0
"""Decoding of video files with PyAV, which honors properties of a stream that OpenCV does not, or OpenCV.

Of these, OpenCV 4 ignores the color matrix and range, OpenCV 5 cannot convert interlaced frames (it returns
uninitialized memory), both take a mirrored video for a rotated one, and the wheels on PyPI do not decode AV1.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.files import utf8_name
from imp_trt.data.images import MAX_PIXELS
from imp_trt.data.memory import MEMORY_FIX
from imp_trt.data.native_calls import call_after_fork, native_call, never_release, waiting_call
from imp_trt.errors import SourceError
from imp_trt.video.sources.addresses import redacted
from imp_trt.video.sources.captures import (
    NOT_HONORED,
    NOT_SQUARE,
    Capture,
    GuardedCapture,
    inherited,
    warn_of_shape,
)

if TYPE_CHECKING:
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_log = logging.getLogger(__name__)

# Older versions convert full range and other matrices than BT.601 to wrong colors, and 17.0 crashes on FLV.
_MIN_PYAV = (17, 1)
_HDR_TO_SDR_PYAV = (18, 0)
_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273; 1 is BT.709
_BT709, _BT2020_PRIMARIES = 1, 9
_UNSPECIFIED = 2
_LIMITED = 1  # color range: 16 to 235
_OTHER_TRANSFERS = (8, 9, 10, 17)  # linear, logarithmic, SMPTE ST 428; the others are close to BT.709
_OTHER_PRIMARIES = (8, 10, 11, 12, 22)  # film, XYZ, DCI-P3, Display P3, EBU 3213
_DOLBY_VISION = ("dvh1", "dvhe", "dav1", "dva1", "dvav")  # of streams that only a Dolby Vision decoder shows
_MAX_BAD_PACKETS = 1000  # in a row; a file of noise must not be searched forever
# They store times of decoding. The times of presentation that FFmpeg derives are wrong for reordered frames.
_DECODING_TIMES = ("asf", "avi")


@cache
def pyav_decodes() -> bool:
    """Whether PyAV is installed in a version that converts colors as the stream says."""
    try:
        import av
    except ImportError:
        return False
    return _version(av.__version__) >= _MIN_PYAV


class OnlyCover(OSError):
    """The file has no video stream but a cover image, such as that of a piece of music."""


class PyAvCapture:
    """A recorded video decoded with PyAV; the interface of :class:`Capture`.

    Frames are turned and mirrored as the display matrix says, converted with the stream's color matrix and
    range, HDR is mapped to SDR, and frames of another size are resized to that of the first, as FFmpeg does.
    What cannot be honored is logged as a warning: pixels that are not square, other rotations than by quarter
    turns, interlacing, stereoscopic and 360-degree views, further video streams, HDR with PyAV 17, Dolby
    Vision without a base layer, and other primaries and transfers than those of BT.709 and similar ones. So
    is, at the end, how many frames are damaged, as far as the codec notices it.

    Args:
        place: path of a regular file; or an address, if there are timeouts.
        timeouts: seconds to wait for the server, and for each read.

    Attributes:
        has_cover: the file has a cover image, which OpenCV takes for a video of one frame.

    Raises:
        OnlyCover: its only video stream is a cover image.
        OSError: FFmpeg does not read it, or it has no video stream.
        SourceError: its frames are too large; from read(): they are, or FFmpeg does not convert its colors.
    """

    def __init__(self, place: Path | str, timeouts: tuple[float, float] | None = None) -> None:
        import av
        import av.error
        from av.codec.context import Flags
        from av.video.reformatter import VideoReformatter

        self._name = redacted(str(place)) if timeouts else str(place)
        self._call = waiting_call if timeouts else native_call
        # A file may be a playlist: nothing but files is opened for it.
        options = {"protocol_whitelist": "http,https,tcp,tls,crypto" if timeouts else "file"}
        try:
            with self._call():
                self._container = av.open(
                    str(place), options=options, timeout=timeouts, **_any_encoding(av.__version__)
                )
        except av.error.FFmpegError as error:
            raise OSError(redacted(str(error))) from error
        try:
            self._select_stream()
            self._stream.thread_type = "AUTO"
            # Without it, up to 31 columns that the stream crops at the left are kept.
            self._stream.codec_context.flags |= Flags.unaligned
            self._stream.codec_context.thread_count = min(usable_cpus(), 16)
        except BaseException:
            self._container.close()
            raise
        self._start = self._stream.start_time or 0  # kept, because FFmpeg changes an unknown one later
        self._position: Fraction | None = None
        self._frames = self._decode()
        self._reformatter = VideoReformatter()
        self._time_s: float | None = None
        self._size: tuple[int, int] | None = None
        self._matrix = b""  # of the last frame that had one
        self._warned: set[str] = set()
        self._decoded = self._corrupt = self._undecoded = 0
        self._inherited = False
        call_after_fork(self)

    def _select_stream(self) -> None:
        from av.stream import Disposition

        streams = self._container.streams.video
        videos = [s for s in streams if not s.disposition & Disposition.attached_pic]
        if not videos:
            raise OnlyCover("a cover image only") if streams else OSError("no video stream")
        known = [s for s in videos if _has_decoder(s)]
        if not known:
            raise OSError("no decoder for the codec of the video")
        best = self._container.streams.best("video")
        self._stream: VideoStream = next((s for s in known if s is best), known[0])
        if _has_decoder(self._stream):
            check_size(self._name, self._stream.width, self._stream.height)
        self._others = [s for s in videos if s is not self._stream]
        self.has_cover = len(videos) < len(streams)

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`."""
        never_release((self._container, self._stream, self._frames, self._reformatter))
        self._inherited = True

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        """The next frame, [h, w, 3] uint8 BGR; (False, None) at the end."""
        if self._inherited:
            raise inherited(self._name)
        with self._call():
            return self._read()

    def _read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        frame = next(self._frames, None)
        if frame is None:
            self._report_damage()
            return False, None
        self._decoded += 1
        self._corrupt += frame.is_corrupt
        self._time_s = self._time_of(frame)
        image = self._oriented(frame, self._converted(frame))
        self._check(frame)
        return True, image

    def get(self, prop: int, /) -> float:
        """The properties of cv2.VideoCapture that sources use; -1 for others, and if unknown."""
        if prop == cv2.CAP_PROP_POS_MSEC:
            return -1.0 if self._time_s is None else self._time_s * 1e3
        if prop == cv2.CAP_PROP_FPS:
            return float(self._stream.average_rate or self._stream.guessed_rate or -1)
        if prop == cv2.CAP_PROP_FRAME_COUNT:
            return float(self._shown_frames())
        return -1.0

    def release(self) -> None:
        """Close the file."""
        if not self._inherited:
            self._report_damage()
            self._container.close()

    def _report_damage(self) -> None:
        """Warn once of what FFmpeg could not decode, or replaced by parts of other frames."""
        if self._decoded and self._corrupt + self._undecoded:
            self._warn(
                f"it is damaged: {self._corrupt} of {self._decoded} frames were decoded in part, and "
                f"{self._undecoded} packets not at all"
            )
            self._corrupt = self._undecoded = 0

    def _shown_frames(self) -> int:
        """Frames that are shown: without those before an edit list's start, and the empty chunks of AVI.

        Without a list of frames in the container, an estimate from duration and rate; -1 if unknown.
        """
        stream = self._stream
        if stream.frames:
            entries = list(stream.index_entries)
            # Fragments are indexed while they are read; empty chunks of AVI have no entry.
            if len(entries) == stream.frames or self._container.format.name == "avi":
                return sum(not entry.is_discard and entry.size > 0 for entry in entries) or -1
            return stream.frames
        seconds = _tagged_duration(stream.metadata.get("DURATION", ""))
        # Of several streams without a duration of their own, FFmpeg gives some that of the container.
        if not seconds and stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif seconds or (self._container.duration is not None and not self._others):
            # That of the container is the one of its longest stream, such as the sound.
            seconds = seconds or (self._container.duration or 0) / 1e6
            if self._container.format.name.startswith(("matroska", "flv")):
                seconds -= float(self._start * (stream.time_base or 0))  # it counts from 0
        rate = float(stream.average_rate or 0)
        return round(seconds * rate) if seconds * rate > 0 else -1

    def _decode(self) -> Iterator[VideoFrame]:
        import av.error

        bad = 0
        packets = self._container.demux(self._stream)
        while bad < _MAX_BAD_PACKETS:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                frames = packet.decode()
                bad = 0
            except IndexError:  # PyAV does not know a stream that begins within the file; others go on
                packets = self._container.demux(self._stream)
                continue
            except av.error.InvalidDataError:
                bad += 1
                self._undecoded += 1
                continue
            except av.error.FFmpegError as error:
                # Without a first frame, the caller tries another decoder.
                level = logging.DEBUG if self._time_s is None else logging.WARNING
                _log.log(level, "%s: reading stops early: %s", self._name, redacted(str(error)))
                return
            yield from frames

    def _time_of(self, frame: VideoFrame) -> float | None:
        """Time of the next frame in seconds from the start of the stream; None if it is unknown.

        A frame without a time, as there are in MPEG program streams, follows its predecessor at the rate.
        """
        base, rate = self._stream.time_base, self._stream.guessed_rate or self._stream.average_rate
        first = self._position is None
        position: int | Fraction | None = frame.pts if frame.pts is not None else frame.dts
        if self._container.format.name in _DECODING_TIMES:
            position = frame.dts if frame.dts is not None or not first else frame.pts
            if first and position is not None:
                self._start = int(position)  # above 0 if frames wait to be shown
        if position is None and self._position is not None and base and rate:
            # Not 1 / (rate * base): PyAV 19 rounds a product of its own rationals.
            position = self._position + Fraction(rate.denominator, rate.numerator) / base
        self._position = None if position is None else Fraction(position)
        if self._position is None or base is None:
            return None
        return float((self._position - self._start) * base)

    def _converted(self, frame: VideoFrame) -> NDArray[np.uint8]:
        import av
        import av.error

        size = frame.width, frame.height
        check_size(self._name, *size)
        self._size = self._size or size
        if size != self._size:
            self._warn("its size changes; frames are resized to the first one's")
        width, height = self._size
        # Its own: that of PyAV 19 belongs to the thread, with which a fork would release it and wait.
        reformat = partial(self._reformatter.reformat, frame, format="bgr24", width=width, height=height)
        is_hdr = frame.color_trc in (_PQ, _HLG)
        mapping: dict[str, Any] = {}
        if is_hdr or frame.color_primaries == _BT2020_PRIMARIES:
            mapping = {"dst_color_trc": _BT709, "dst_color_primaries": _BT709}
            if is_hdr and _version(av.__version__) < _HDR_TO_SDR_PYAV:
                self._warn("HDR colors are not mapped to SDR, which needs PyAV 18")
        try:
            image = np.asarray(reformat(**mapping).to_ndarray(), np.uint8)
            limited = frame.color_range == _LIMITED and frame.format.name.startswith("gray")
            return cv2.LUT(image, _expanded_gray()) if limited else image  # type: ignore[return-value]
        except av.error.FFmpegError as error:
            if error.errno in (errno.ENOMEM, errno.EAGAIN):  # EAGAIN: a thread that cannot be started
                raise SourceError(
                    f"video {self._name}", expected="enough memory", got=error.strerror, fix=MEMORY_FIX
                ) from error
            raise SourceError(
                f"video {self._name}",
                expected="colors that FFmpeg can convert",
                got=f"matrix {int(frame.colorspace)}, transfer {int(frame.color_trc)} and primaries "
                f"{int(frame.color_primaries)} of ITU-T H.273: {error.strerror}",
                fix="convert it to BT.709 with the program that recorded it",
            ) from error

    def _oriented(self, frame: VideoFrame, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as its display matrix shows it: (x, y) is displayed at (a x + c y, b x + d y)."""
        from av.sidedata.sidedata import Type

        side_data = cast("Mapping[object, memoryview]", frame.side_data)  # its stubs expect other keys
        if Type.STEREO3D in side_data:
            self._warn("it is stereoscopic; the views of a frame are processed as one image")
        if Type.SPHERICAL in side_data:
            self._warn("it is a 360-degree video; its projection is processed as a flat image")
        matrix = side_data.get(Type.DISPLAYMATRIX)
        if matrix is not None:  # one in the stream itself may be at its first frame only
            self._matrix = bytes(matrix)
        if not self._matrix:
            return image
        a, b, _, c, d = (int(v) for v in np.frombuffer(self._matrix, np.int32)[:5])
        if a and d and not b and not c:
            across, down = a, d
        elif b and c and not a and not d:
            image, across, down = image.transpose(1, 0, 2), c, b
        else:
            self._warn("its rotation is not by quarter turns; frames are processed as stored")
            return image
        return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])

    def _check(self, frame: VideoFrame) -> None:
        ratio = self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio
        if ratio and ratio != 1:
            self._warn(NOT_SQUARE.format(ratio.numerator, ratio.denominator))
        if frame.interlaced_frame:
            self._warn("it is interlaced; both fields of a frame are processed as one image")
        transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
        if transfer == _UNSPECIFIED and self._is_dolby_vision(frame):
            self._warn(
                "its colors are those of Dolby Vision alone (profile 5), which are not converted: they are "
                "wrong; convert it to SDR"
            )
        elif transfer in _OTHER_TRANSFERS or primaries in _OTHER_PRIMARIES:
            self._warn(
                f"its colors (transfer {transfer}, primaries {primaries} of ITU-T H.273) are read as if they "
                "were BT.709"
            )
        if self._others:
            others = ", ".join(map(_description, self._others))
            self._warn(f"of its video streams, {_description(self._stream)} is read, but not {others}")

    def _is_dolby_vision(self, frame: VideoFrame) -> bool:
        from av.sidedata.sidedata import Type

        side_data = cast("Mapping[object, memoryview]", frame.side_data)  # its stubs expect other keys
        marked = Type.DOVI_METADATA in side_data or Type.DOVI_RPU_BUFFER in side_data
        return marked or self._stream.codec_context.codec_tag in _DOLBY_VISION

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s: %s", self._name, text)


@cache
def _expanded_gray() -> NDArray[np.uint8]:
    """Values of gray frames of limited range, which FFmpeg takes for full range, in full range."""
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter

    values = np.arange(256)
    black = VideoFrame.from_ndarray(np.full((16, 16), 16, np.uint8), format="gray")
    black.color_range = _LIMITED
    if VideoReformatter().reformat(black, format="bgr24").to_ndarray()[0, 0, 0] == 16:
        values = np.round((values - 16) * (255 / 219))
    return np.clip(values, 0, 255).astype(np.uint8)


def _has_decoder(stream: VideoStream) -> bool:
    return getattr(stream, "codec_context", None) is not None  # contrary to PyAV's types


def _description(stream: VideoStream) -> str:
    size = f"{stream.width}x{stream.height}" if _has_decoder(stream) else "an unknown codec"
    return f"stream {stream.index} ({size})"


@native_call()
def opencv_capture(path: Path) -> Capture:
    """Open a file with OpenCV; warns of what OpenCV does not honor."""
    available = cv2.videoio_registry.getBackends()
    # Other backends than FFmpeg guess from the name, for example with numbered images.
    backend = cv2.CAP_FFMPEG if cv2.CAP_FFMPEG in available else cv2.CAP_ANY
    threads = [cv2.CAP_PROP_N_THREADS, usable_cpus()] if backend == cv2.CAP_FFMPEG else []
    capture = cv2.VideoCapture(utf8_name(path, f"video {path}", SourceError), backend, threads)
    if capture.isOpened():
        _warn_of_opencv()
    # OpenCV's stubs say that read() always returns an image; at the end of the file it returns None.
    guarded = GuardedCapture(cast(GuardedCapture, capture), native_call, str(path))
    check_size(
        str(path), *(int(guarded.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    )
    warn_of_shape(guarded, str(path))
    return guarded


def check_size(name: str, width: int, height: int) -> None:
    """SourceError for frames above MAX_PIXELS: a file of 1 MB can have them, and take gigabytes."""
    if width * height > MAX_PIXELS:
        raise SourceError(
            f"video {name}",
            expected=f"frames of at most {MAX_PIXELS:,} pixels",
            got=f"{width}x{height}",
            fix="convert it to a smaller size",
        )


def _tagged_duration(text: str) -> float:
    """Seconds of a Matroska tag such as 00:01:30.500000000; 0 if the text is none."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text)
    return int(parts[1]) * 3600 + int(parts[2]) * 60 + float(parts[3]) if parts else 0.0


def _any_encoding(version: str) -> dict[str, Any]:
    """Arguments of av.open with which titles may be in any encoding; PyAV 19 has none for it."""
    return {"metadata_errors": "replace"} if _version(version) < (19, 0) else {}


def _version(text: str) -> tuple[int, int]:
    """Major and minor version; (0, 0) if the text is none."""
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


@cache
def _warn_of_opencv() -> None:
    """Warn once per process; OpenCV reports none of these properties."""
    _log.warning(
        "%s decoded by OpenCV %s, which %s%s",
        "a video that PyAV does not decode is" if pyav_decodes() else "videos are",
        cv2.__version__,
        NOT_HONORED,
        "" if pyav_decodes() else "; pip install 'imp-trt[video]'",
    )
