"""What every source of frames has in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol

from imp_trt.video.sources.frame import Frame


class Source(Protocol):
    """Frames in order, once.

    Attributes:
        name: what was opened, without credentials.
        paths: the files that are read.
        frames: how many frames there are, None if unknown.
        fps: frames per second as the container says, None for images or if it does not say.
        live: a camera or stream: its frames are lost when nobody takes them in time.
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

        Of live sources also while another thread iterates: its iteration ends at once.
        """
        ...


class ClosingSource:
    """Leaving the ``with`` block closes the source."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file or device; idempotent."""
