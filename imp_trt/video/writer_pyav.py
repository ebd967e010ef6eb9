# SPDX-License-Identifier: Apache-2.0
"""H.264 encoder based on PyAV: reports FFmpeg's errors and keeps the time of each frame."""

from __future__ import annotations

import errno
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.memory import MEMORY_FIX, memory_is_short
from imp_trt.data.native_calls import call_after_fork, native_call, never_release
from imp_trt.errors import DependencyMissing, OutputError
from imp_trt.video.encoder import TICKS

if TYPE_CHECKING:
    import av
    import av.error
    from av.container import OutputContainer
    from av.video.stream import VideoStream

_INSTALL = "pip install 'imp-trt[video]'"
# 11 ms of one core for a 1920x1080 frame; "veryfast" takes 34 ms for a file of 60% of the size.
# No B-frames: no frame is delayed, and the file needs no edit list, which some readers ignore.
_X264 = {"preset": "ultrafast", "crf": "20", "bf": "0"}
_OPENH264_BITS_PER_PIXEL = 0.2
_BT601, _BT709, _LIMITED_RANGE = 6, 1, 1
_KEY_FRAME_SECONDS = 2
_MATROSKA_TICK = Fraction(1, 1000)
_FRAGMENT_SECONDS = 1
_HYBRID_SINCE = (61, 7)  # FFmpeg 7.1


@cache
def h264_encoder() -> str:
    """Return the name of the H.264 encoder in the installed PyAV.

    Raises:
        DependencyMissing: PyAV is not installed, or has no such encoder.
    """
    try:
        import av
    except ImportError as error:
        raise DependencyMissing("H.264 video needs PyAV", got=error, fix=_INSTALL) from error
    for name in ("libx264", "libopenh264"):
        with suppress(ValueError):  # PyAV raises it for an unknown codec
            av.Codec(name, "w")
            return name
    raise DependencyMissing(
        "H.264 video needs an encoder", got=f"PyAV {av.__version__} without one", fix=_INSTALL
    )


def _container_options(file: Path) -> dict[str, str]:
    """FFmpeg's options with which a file that has no end can be read up to its last second."""
    import av

    microseconds = str(_FRAGMENT_SECONDS * 10**6)
    options = {"flush_packets": "1"}
    if file.suffix.lower() == ".mkv":
        return {**options, "cluster_time_limit": str(_FRAGMENT_SECONDS * 1000)}
    flags = "frag_keyframe+empty_moov+default_base_moof"
    if av.library_versions["libavformat"] >= _HYBRID_SINCE:
        flags = f"hybrid_fragmented+{flags}"  # becomes a file with one index when it is complete
    return {**options, "movflags": flags, "frag_duration": microseconds}


class PyAvEncoder:
    """See :class:`imp_trt.video.encoder.Encoder`; H.264 in yuv420p, crf 20.

    Args:
        file: absolute path to write; its suffix selects the container.
        rate: nominal frames per second.
        size: (h, w), even numbers.
        name: name of the video for messages.

    Raises:
        OutputError: no encoder supports the size.
        OSError: the file cannot be written.
    """

    @native_call()
    def __init__(self, file: Path, rate: Fraction, size: tuple[int, int], name: str) -> None:
        import av.error

        self.file, self._name = file, name
        self._period = round(TICKS / rate)
        self._written, self._last = 0, 0
        self._container: OutputContainer | None = None
        try:
            container = self._container = av.open(str(file), "w", options=_container_options(file))
            self._stream = self._add_stream(container, rate, size)
        except (av.error.FFmpegError, ValueError) as error:
            self.release()
            raise self._unsupported(error) from error
        try:
            container.start_encoding()  # opens the file, which may be renamed afterwards
        except av.error.FFmpegError as error:
            self.release()
            raise _as_os_error(error) from error
        call_after_fork(self)

    def after_fork(self) -> None:
        """See :class:`imp_trt.data.native_calls.Inherited`: it would wait for the parent's threads."""
        never_release((self._container, self._stream))

    def _add_stream(self, container: OutputContainer, rate: Fraction, size: tuple[int, int]) -> VideoStream:
        encoder = h264_encoder()
        options = dict(_X264) if encoder == "libx264" else {}
        stream = cast("VideoStream", container.add_stream(encoder, rate=rate, options=options))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, TICKS)
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.gop_size = max(1, round(_KEY_FRAME_SECONDS * rate))
        if encoder != "libx264":
            context.bit_rate = int(_OPENH264_BITS_PER_PIXEL * size[0] * size[1] * rate)
        context.thread_count = min(2, usable_cpus())  # leave the other cores to the network
        # The conversion of write(), which is also what readers assume that ignore these fields.
        context.colorspace, context.color_range = _BT601, _LIMITED_RANGE
        context.color_primaries = context.color_trc = _BT709
        # Opened now rather than by the first frame, where an unsupported size looks like a full disk.
        context.open()
        return stream

    @native_call()
    def write(self, image: NDArray[np.uint8], ticks: int) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.write`."""
        import av

        # OpenCV converts, because FFmpeg's conversion darkens by up to 4 levels.
        planes = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = ticks, Fraction(1, TICKS)
        self._mux(frame)
        self._written, self._last = self._written + 1, ticks

    @native_call()
    def finish(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.finish`."""
        import av.error

        self._mux(None)
        container, self._container = self._container, None
        if container is None:
            return
        try:
            container.close()
        except av.error.FFmpegError as error:
            raise _as_os_error(error) from error

    @native_call()
    def release(self) -> None:
        """See :meth:`imp_trt.video.encoder.Encoder.release`."""
        import av.error

        container, self._container = self._container, None
        if container is not None:
            with suppress(av.error.FFmpegError, OSError):
                container.close()

    @native_call()
    def count(self) -> int:
        """See :meth:`imp_trt.video.encoder.Encoder.count`."""
        import av.error

        try:
            with av.open(str(self.file)) as container:
                stream = container.streams.video[0]
                next(container.decode(stream))
                if stream.frames:
                    return int(stream.frames)
                # Matroska does not store the number, and reading hours of video takes minutes. If the last
                # frame is present, so are the others, because FFmpeg reports failed writes.
                container.seek(self._last * 10**6 // TICKS)
                last = max(packet.pts or 0 for packet in container.demux(stream) if packet.size)
                if Fraction(self._last, TICKS) - last * (stream.time_base or 0) <= _MATROSKA_TICK:
                    return self._written
        except (av.error.FFmpegError, StopIteration, IndexError, ValueError):
            pass
        return self._count_packets()

    def _count_packets(self) -> int:
        """Number of frames up to the first damage; -1 if the file cannot be opened."""
        import av.error

        count = -1
        with suppress(av.error.FFmpegError, IndexError), av.open(str(self.file)) as container:
            count = 0
            for packet in container.demux(container.streams.video[0]):
                count += bool(packet.size)
        return count

    def _mux(self, frame: av.VideoFrame | None) -> None:
        """Encode a frame, or flush the encoder, and write the packets."""
        import av.error

        assert self._container is not None  # noqa: S101  # open until finish() or release()
        try:
            for packet in self._stream.encode(frame):
                packet.duration = self._period  # only used for the last frame
                self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise _as_os_error(error) from error

    def _unsupported(self, error: Exception) -> OutputError:
        return OutputError(
            f"video {self._name} cannot be written",
            got=error,
            fix=MEMORY_FIX if memory_is_short() else "write images to a folder, or a smaller video",
        )


def _as_os_error(error: av.error.FFmpegError) -> OSError:
    return OSError(error.errno or errno.EIO, error.strerror or str(error))
