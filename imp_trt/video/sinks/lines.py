# SPDX-License-Identifier: Apache-2.0
"""JSON Lines sink: one line of JSON per frame, to a file, a pipe or a device."""

from __future__ import annotations

import json
import math
import os
import re
import select
import stat
from pathlib import Path
from typing import Protocol

from imp_trt.data.files import unwritable
from imp_trt.errors import OutputError
from imp_trt.results.instances import check_min_score
from imp_trt.results.result import DEFAULT_SCORE_THRESHOLD
from imp_trt.video.sinks.sink import BaseSink, SegmentedFrame
from imp_trt.video.sinks.text_file import TextFile

MAX_FRAME_RESULTS = 1000
"""Frames that FrameResults keeps by default."""

_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")

READER_TIMEOUT_S = 1.5
"""How long a pipe may stay full before its reader counts as stalled."""

_WAITS = 5

_OWN_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d+)|/dev/std(out|err)")


def frame_dict(item: SegmentedFrame, min_score: float) -> dict[str, object]:
    """A frame's index, name and time_s, and its result's to_dict, as data for JSON."""
    frame = item.frame
    # Frames of other sources may have numbers of NumPy, or NaN for an unknown time.
    time_s = None if frame.time_s is None or not math.isfinite(frame.time_s) else float(frame.time_s)
    data: dict[str, object] = {"index": int(frame.index), "name": frame.name, "time_s": time_s}
    if item.source:
        data["source"] = item.source
    if item.age_s is not None:
        data["age_ms"] = round(1e3 * item.age_s, 3)
    data.update(item.result.to_dict(min_score))
    return data


class FrameResults(BaseSink):
    """Keeps the results of the first frames as data for JSON, see :func:`frame_dict`.

    Args:
        min_score: instances with lower scores are left out.
        limit: number of frames that are kept.

    Raises:
        InvalidInput: min_score is above 1 or NaN.
    """

    def __init__(self, min_score: float = DEFAULT_SCORE_THRESHOLD, limit: int = MAX_FRAME_RESULTS) -> None:
        check_min_score(min_score)
        self._min_score = min_score
        self._limit = limit
        self._results: list[dict[str, object]] = []
        self._omitted = 0

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if len(self._results) < self._limit:
            self._results.append(frame_dict(item, self._min_score))
        else:
            self._omitted += 1
        return True

    def to_dict(self) -> dict[str, object]:
        """results, and results_omitted: the number of frames after the first ones."""
        return {"results": self._results, "results_omitted": self._omitted}


class JsonLines(BaseSink):
    """Writes one line of JSON per frame: index, name, time_s, and the result's to_dict.

    With several sources, lines have "source"; if the age of the frame is known, "age_ms".

    Args:
        path: a file, a named pipe, or a device such as ``/dev/stdout``. Lines are written immediately. An
            existing file is replaced after two seconds of lines, or when the sink is closed.
        min_score: instances with lower scores are left out.

    Raises:
        InvalidInput: min_score is above 1 or NaN.
        OutputError: the path cannot be written or names a compressed file, the pipe has no reader, or its
            reader closed it or read nothing for READER_TIMEOUT_S.
    """

    recovers = True  # a file contains complete lines only

    def __init__(self, path: str | os.PathLike[str], min_score: float = DEFAULT_SCORE_THRESHOLD) -> None:
        check_min_score(min_score)
        if Path(path).suffix.lower() in _COMPRESSED and not _is_stream(Path(path)):
            raise OutputError(
                f"{os.fspath(path)} cannot be written",
                expected="the name of a text file",
                got=Path(path).suffix,
                fix="write .jsonl and compress it afterwards, or write to a pipe: >(gzip > FILE) in a shell",
            )
        self._min_score = min_score
        self._file: _TextOutput = (
            _Pipe(Path(path)) if _is_stream(Path(path)) else TextFile(Path(path), named=True)
        )

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        line = frame_dict(item, self._min_score)
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        self._file.commit()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._file.discard()


class _TextOutput(Protocol):
    def write(self, text: str) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...


class _Pipe:
    """Unbuffered text to a pipe or device. A stalled reader raises an error instead of blocking the run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        own = _OWN_DESCRIPTOR.fullmatch(str(path))
        try:
            if own:
                # Duplicated, because opening a redirected file again would write from its start.
                self._descriptor = os.dup(int(own[1] or {"out": 1, "err": 2}[own[2]]))
            else:
                # Without O_NONBLOCK, opening a pipe blocks until it has a reader.
                self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise unwritable(path, error) from error

    def write(self, text: str) -> None:
        if self._descriptor is None:
            raise OutputError(f"{self._path} cannot be written", got="a closed sink")
        data = memoryview(text.encode())
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        try:
            while data:
                # In parts: Ctrl-Z stops the reader too, and the time until both go on is one of them.
                if not any(writable.poll(READER_TIMEOUT_S * 1e3 / _WAITS) for _ in range(_WAITS)):
                    raise OutputError(
                        f"{self._path} cannot be written",
                        got=f"a reader that read nothing for {READER_TIMEOUT_S:g} s",
                        fix="read faster, or write to a file",
                    )
                # POSIX: a pipe that polls as writable takes PIPE_BUF bytes without blocking.
                data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]
        except OSError as error:
            raise unwritable(self._path, error) from error

    def commit(self) -> None:
        self.discard()

    def discard(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _is_stream(path: Path) -> bool:
    """Whether the path is a pipe, a terminal or another character device."""
    if _OWN_DESCRIPTOR.fullmatch(str(path)):
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
