"""One picture per frame: overlays and class maps."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.data.files import make_folder, write_atomically
from imp_trt.data.images import IMAGE_SUFFIXES, encode_image
from imp_trt.errors import OutputError
from imp_trt.video.sinks.sink import Base, Segmented


class Pictures(Base, ABC):
    """One picture per frame, each written whole; those written stay when the run is aborted.

    Pictures of several sources go to a folder for each source, named after it.

    Args:
        place: a folder (files are named after the frames), a pattern with one number such as
            ``out/%06d.png``, or a single image file for a source of one frame.
        suffix: format of the files in a folder.

    Raises:
        OutputError: the place is not writable.
    """

    def __init__(self, place: str | os.PathLike[str], suffix: str = ".png") -> None:
        text = os.fspath(place)
        self._suffix = suffix
        self._pattern = Path(text).name if re.fullmatch(r"[^%]*%0?\d*d[^%/]*", text) else None
        path = Path(text)
        if self._pattern is None and path.suffix.lower() not in IMAGE_SUFFIXES:
            self._folder, self._single = path, False
        else:
            self._folder, self._single = path.parent, self._pattern is None
        self._file = path
        if path.suffix.lower() in IMAGE_SUFFIXES:
            self._suffix = path.suffix.lower()
        make_folder(self._folder)
        self._written = 0

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        if self._single and self._written:
            raise OutputError(
                f"{self._file} holds one picture",
                expected="one frame",
                got="a second one",
                fix="name a folder, a pattern such as out/%06d.png, or a video file",
            )
        path = self._file if self._single else self._folder / self._name(item)
        write_atomically(path, encode_image(self._picture(item), self._suffix), sync=False)
        self._written += 1
        return True

    def _name(self, item: Segmented) -> str:
        """The file of a frame, relative to the folder."""
        name = self._pattern % item.frame.index if self._pattern else f"{item.frame.name}{self._suffix}"
        return f"{safe_name(item.source)}/{name}" if item.source else name

    @abstractmethod
    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        """What is written for a frame: [h, w, 3] BGR or [h, w] uint8."""


class OverlayPictures(Pictures):
    """Overlays as image files."""

    draws = True

    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        return item.overlay


class ClassMaps(Pictures):
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


def safe_name(source: str) -> str:
    """A source's name as part of a file name: letters, digits, ``-``, ``_`` and inner dots only."""
    return re.sub(r"[^\w.-]+", "_", source).strip("._") or "source"
