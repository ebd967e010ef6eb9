# SPDX-License-Identifier: Apache-2.0
"""Interface of the sources of frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from imp_trt.video.sources.frame import Frame

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Interface of a source: an iterable of frames in order, which can be iterated once.

    Attributes:
        name: path or address, without credentials.
        paths: the files that are read.
        frames: number of frames, None if unknown.
        fps: frames per second as stored in the container, None for images or if unknown.
        live: whether it is a camera or stream, whose frames are lost if they are not read in time.
    """

    name: str
    paths: tuple[Path, ...]
    frames: int | None
    live: bool

    @property
    def fps(self) -> float | None: ...
    def __iter__(self) -> Iterator[Frame]: ...
    def __enter__(self) -> Source: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def close(self) -> None:
        """Release the file or device; idempotent.

        A live source may be closed while another thread iterates; the iteration then ends immediately.
        """
        ...


class ClosingSource:
    """Mixin: leaving the ``with`` block closes the source."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file or device; idempotent."""


def warn_of_no_frames(name: str, closed: bool) -> None:
    """Warn that a source is iterated that gives no frames, such as after its ``with`` block."""
    state = "is closed" if closed else "was read to its end"
    _log.warning("%s %s and gives no more frames; open it again with open_source", name, state)
