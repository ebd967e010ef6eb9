# SPDX-License-Identifier: Apache-2.0
"""Sinks that write one image per frame: overlays and class maps."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt._deprecated import renamed_parameters
from imp_trt.data.files import fixed, make_folder, write_atomically
from imp_trt.data.images import IMAGE_SUFFIXES, encode_image
from imp_trt.errors import OutputError
from imp_trt.video.sinks.sink import BaseSink, SegmentedFrame

_log = logging.getLogger(__name__)


class ImageSink(BaseSink, ABC):
    """Writes one image per frame, each atomically. Images already written stay when the run is aborted.

    With several sources, the images of each go to a subfolder named after it. Images that the folder has
    already stay if no frame has their name; a warning counts them.

    Args:
        path: a folder (files are named after the frames), a pattern with one number and the suffix of an
            image such as ``out/%06d.png``, or a single image file for a source of one frame.
        suffix: format of the files in a folder.

    Raises:
        OutputError: the path is not writable, or a pattern without the suffix of an image; from write(): two
            frames in a row have the same name (with a pattern: index).
    """

    @renamed_parameters(place="path")
    def __init__(self, path: str | os.PathLike[str], suffix: str = ".png") -> None:
        text = os.fspath(path)
        self._suffix = suffix
        self._file = fixed(path)
        self._pattern = self._file.name if is_pattern(text) else None
        if self._pattern is not None and self._file.suffix.lower() not in IMAGE_SUFFIXES:
            raise OutputError(
                f"pattern {text}",
                expected=f"the suffix of an image: {', '.join(IMAGE_SUFFIXES)}",
                got=self._file.suffix or "none",
                fix=f"for a folder of that name, write {text}/",
            )
        if self._pattern is None and self._file.suffix.lower() not in IMAGE_SUFFIXES:
            self._folder, self._single = self._file, False
        else:
            self._folder, self._single = self._file.parent, self._pattern is None
        if self._file.suffix.lower() in IMAGE_SUFFIXES:
            self._suffix = self._file.suffix.lower()
        make_folder(self._folder)
        if not self._single:
            _warn_of_others(self._folder, self._suffix)
        self._written = 0
        self._last: dict[str, Path] = {}  # by source

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if self._single and self._written:
            raise OutputError(
                f"{self._file} holds one image",
                expected="one frame",
                got="a second frame",
                fix="pass a folder, a pattern such as out/%06d.png, or a video file",
            )
        path = self._file if self._single else self._folder / self._name(item)
        if path == self._last.get(item.source):  # earlier ones are not kept: there may be millions
            raise OutputError(
                f"{path} has the previous frame",
                expected="another index for each frame" if self._pattern else "another name for each frame",
                got=repr(item.frame.index if self._pattern else item.frame.name),
                fix='Frame(image, index, f"{index:06d}", time_s)',
            )
        self._last[item.source] = path
        write_atomically(path, encode_image(self._image(item), self._suffix), sync=False)
        self._written += 1
        return True

    def _name(self, item: SegmentedFrame) -> str:
        """File name of a frame, relative to the folder."""
        name = (
            self._pattern % item.frame.index
            if self._pattern
            else f"{file_name(item.frame.name)}{self._suffix}"
        )
        return f"{safe_name(item.source)}/{name}" if item.source else name

    @abstractmethod
    def _image(self, item: SegmentedFrame) -> NDArray[np.uint8]:
        """Return the image to write for a frame: [h, w, 3] BGR or [h, w] uint8."""


def _warn_of_others(folder: Path, suffix: str) -> None:
    """Log how many images a folder has before the run: perhaps those of an earlier one with more frames."""
    with suppress(OSError), os.scandir(folder) as entries:
        count = sum(entry.name.lower().endswith(suffix) for entry in entries)
        if count:
            text = "%s already has %d images (%s); those of other names than the frames stay there"
            _log.warning(text, folder, count, suffix)


class OverlayImages(ImageSink):
    """Writes overlays as image files.

    Raises:
        OutputError: see :class:`ImageSink`; or .pgm, which has no colors.
    """

    draws = True

    @renamed_parameters(place="path")
    def __init__(self, path: str | os.PathLike[str], suffix: str = ".png") -> None:
        if ".pgm" in (Path(path).suffix.lower(), suffix):
            raise OutputError(
                f"overlay {os.fspath(path)}",
                expected="a format with colors",
                got=".pgm",
                fix="write .ppm or .png",
            )
        super().__init__(path, suffix)

    def _image(self, item: SegmentedFrame) -> NDArray[np.uint8]:
        return item.overlay


class ClassMaps(ImageSink):
    """Writes class maps as 8-bit single-channel PNGs; pixel = class index.

    Raises:
        OutputError: a file name that does not end with .png. Lossy formats would change class indices.
    """

    @renamed_parameters(place="path")
    def __init__(self, path: str | os.PathLike[str]) -> None:
        suffix = Path(path).suffix.lower()
        if suffix in IMAGE_SUFFIXES and suffix != ".png":
            raise OutputError(f"class maps in {path}", expected="a folder or .png files", got=suffix)
        super().__init__(path)

    def _image(self, item: SegmentedFrame) -> NDArray[np.uint8]:
        return item.result.semantic


def is_pattern(path: str) -> bool:
    """Whether the last part of a path has one number, such as ``out/%06d.png``; False for a folder."""
    name = os.path.basename(path)  # "" if the path ends with /
    return re.fullmatch(r"[^%]*%0?\d{0,3}d[^%]*", name) is not None and not os.path.isdir(path)


def file_name(name: str) -> str:
    """Return a frame's name, which may come from any source, as one component of a path."""
    return re.sub(r"[/\x00]", "_", name)


def safe_name(source: str) -> str:
    """Return a source's name for use in a file name: letters, digits, ``-``, ``_`` and inner dots only."""
    return re.sub(r"[^\w.-]+", "_", source).strip("._") or "source"
