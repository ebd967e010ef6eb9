# SPDX-License-Identifier: Apache-2.0
"""Panoptic maps in COCO's format: one PNG per frame and one JSON file with the segments."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt._deprecated import renamed_parameters
from imp_trt.classes import ClassTable, Rgb
from imp_trt.data.files import fixed, temporary_beside, unwritable
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.data.native_calls import native_call
from imp_trt.errors import OutputError
from imp_trt.results.instances import check_min_score
from imp_trt.results.panoptic import Panoptic, Segment
from imp_trt.video.sinks.images import ImageSink, is_pattern
from imp_trt.video.sinks.sink import SegmentedFrame
from imp_trt.video.sinks.text_file import TextFile
from imp_trt.video.unclosed import EndedIfDropped, exclusive

JSON_NAME = "panoptic.json"

_log = logging.getLogger(__name__)

_EVERY_S = 10.0
_JSON_FRACTION = 0.02  # of the time is spent on replacing the JSON file

_BETWEEN = "\t"  # which JSON escapes
_RESERVED_BYTES = 1 << 18  # beyond the entries: for those of the next frames, and for the categories

_SHADE_STEP, _SHADES = 12, 8

_SegmentMap = NDArray[np.uint8] | NDArray[np.int32]
"""[h, w], index of the segment of each pixel, 0 = void."""


class _Reserved:
    """A file with room and a descriptor, so that it can be written when the disk is full, or none is left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        try:
            self._temporary = temporary_beside(path)
            self._at = self._temporary.__enter__()
            self._file = self._at.open("rb+")
        except OSError as error:
            raise unwritable(path, error) from error

    def hold(self, size: int) -> None:
        """Keep room for at least size bytes.

        Raises:
            OutputError: the disk is full.
        """
        if size + _RESERVED_BYTES // 2 <= self._size:
            return
        try:
            os.posix_fallocate(self._file.fileno(), 0, size + _RESERVED_BYTES)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):  # not on this file system
                return
            raise unwritable(self._path, error) from error
        self._size = size + _RESERVED_BYTES

    def write(self, text: Iterable[str]) -> None:
        """Write it, and give it its name.

        Raises:
            OSError: that failed.
        """
        for part in text:
            self._file.write(part.encode())
        self._file.truncate()
        os.fsync(self._file.fileno())
        os.replace(self._at, self._path)

    def close(self) -> None:
        """Remove it unless it has its name. Idempotent."""
        if not self._file.closed:
            with suppress(OSError):  # of what is not written yet
                self._file.close()
            self._temporary.__exit__(None, None, None)


class PanopticMaps(ImageSink, EndedIfDropped):
    """Writes PNGs whose colors are segment ids (R + 256 G + 65536 B, 0 = void), and panoptic.json.

    The ids are shades of the class colors, so that the maps are viewable. The JSON file has COCO's lists
    images, annotations (with segments_info) and categories; category ids are the class indices. The maps are
    written immediately. The JSON file is complete when the sink is closed, also if the disk is full: there is
    room for it from the beginning. Until then it is replaced by a longer one every ten seconds, or less often
    if that takes long.

    Args:
        path: a folder. The maps in it are named after the frames.
        min_score: minimum score of instances; see :func:`imp_trt.results.panoptic.fuse_panoptic`.

    Raises:
        InvalidInput: min_score is above 1 or NaN.
        OutputError: the path is a file, or not writable.
    """

    recovers = True

    @renamed_parameters(place="path")
    def __init__(self, path: str | os.PathLike[str], min_score: float = 0.5) -> None:
        check_min_score(min_score)
        folder = fixed(path)
        if folder.suffix.lower() in IMAGE_SUFFIXES or is_pattern(os.fspath(path)):
            raise OutputError(
                f"panoptic maps in {path}",
                expected="a folder, for the maps and their JSON file",
                got="the name of an image",
                fix=f"pass its folder, {folder.parent}",
            )
        self._json = folder / JSON_NAME
        if os.path.isdir(self._json):
            raise OutputError(f"{self._json} cannot be written", expected="a file", got="a folder")
        super().__init__(folder)
        self._min_score = min_score
        # A line for each frame: its entries of the two lists. On disk, to keep memory constant.
        self._entries = TextFile(folder / f".{JSON_NAME}.entries")
        self._reserved = _Reserved(self._json)
        self._next_s = time.monotonic() + _EVERY_S
        self._classes: ClassTable | None = None
        self._segments: list[dict[str, object]] = []

    @exclusive
    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if self._entries.done:
            raise OutputError(f"{self._json} cannot be written", got="a closed sink")
        self._in_use()
        self._reserved.hold(self._entries.size)
        super().write(item)
        self._classes = item.result.classes
        number = self._written
        name = self._name(item)
        height, width = item.result.size
        image = {"id": number, "file_name": name, "width": width, "height": height}
        annotation = {"image_id": number, "file_name": name, "segments_info": self._segments}
        self._entries.write(f"{json.dumps(annotation, allow_nan=False)}{_BETWEEN}{json.dumps(image)}\n")
        start = time.monotonic()
        if start >= self._next_s:
            self._write_json()
            end = time.monotonic()
            self._next_s = end + max(_EVERY_S, (end - start) / _JSON_FRACTION)
        return True

    @exclusive
    def close(self) -> None:
        """See :meth:`Sink.close`."""
        try:
            if self._entries.size and not self._entries.done:
                self._reserved.write(self._text())
        except OSError as error:
            raise unwritable(self._json, error) from error
        finally:
            self.abort()

    @exclusive
    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._entries.discard()
        self._reserved.close()

    def end_if_open(self) -> None:
        """Close it, with a warning."""
        if not self._entries.done:
            _log.warning("panoptic maps in %s were not closed; %s is complete", self._json.parent, JSON_NAME)
            self.close()

    def _write_json(self) -> None:
        """Replace the JSON file by one with all frames so far."""
        try:
            with temporary_beside(self._json) as temporary:
                with temporary.open("w", encoding="utf-8") as file:
                    file.writelines(self._text())
                os.replace(temporary, self._json)
        except OSError as error:
            raise unwritable(self._json, error) from error

    def _text(self) -> Iterator[str]:
        """The JSON file, in parts."""
        assert self._classes is not None  # noqa: S101  # there is a frame
        for column, key in enumerate(('{"annotations"', '"images"')):
            yield f"{key}: ["
            for number, entry in enumerate(self._entries.lines()):
                yield f"{',' if number else ''}\n{entry.split(_BETWEEN)[column]}"
            yield "\n],\n"
        yield f'"categories": {json.dumps(_categories(self._classes))}}}\n'

    def _image(self, item: SegmentedFrame) -> NDArray[np.uint8]:
        panoptic = item.result.panoptic(min_score=self._min_score)
        ids = segment_colors(panoptic, item.result.classes)
        # 8 bits where they suffice: a quarter of the memory traffic, which dominates the time.
        indices: _SegmentMap = panoptic.ids.astype(np.uint8) if len(ids) <= 256 else panoptic.ids
        self._segments = [
            _segment_info(segment, int(segment_id), indices)
            for segment, segment_id in zip(panoptic.segments, ids[1:], strict=True)
        ]
        return _colorize(indices, ids)


def segment_colors(panoptic: Panoptic, classes: ClassTable) -> NDArray[np.int64]:
    """Return unique segment ids, R + 256 G + 65536 B: [S + 1] int64, that of void (0) first.

    The first segment of a class has the color of the class, the others have similar shades.
    """
    used, counts = {0}, dict.fromkeys(range(len(classes)), 0)
    ids = [0]
    for segment in panoptic.segments:
        segment_id = 0
        while segment_id in used:
            segment_id = _shade(classes.palette[segment.label], counts[segment.label])
            counts[segment.label] += 1
        used.add(segment_id)
        ids.append(segment_id)
    return np.array(ids, np.int64)


def _shade(color: Rgb, count: int) -> int:
    """Return the id of the count-th shade of a color; from 512 on, of an arbitrary color."""
    if count >= _SHADES**3:
        return count
    segment_id = 0
    for channel, value in enumerate(color):
        step = _SHADE_STEP * (count // _SHADES**channel % _SHADES)
        segment_id |= (value + step if value < 128 else value - step) << 8 * channel
    return segment_id


@native_call()
def _colorize(indices: _SegmentMap, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Map segment indices [h, w] to their ids as colors [h, w, 3] uint8 BGR."""
    colors = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8)
    if indices.dtype != np.uint8:
        return np.asarray(colors[indices], np.uint8)
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(colors), 0] = colors
    return np.asarray(cv2.LUT(cv2.merge([indices] * 3), table), np.uint8)


@native_call()
def _segment_info(segment: Segment, segment_id: int, indices: _SegmentMap) -> dict[str, object]:
    """Return an entry of segments_info; indices is the map of segment indices [h, w]."""
    x, y, width, height = cv2.boundingRect((indices == segment.id).view(np.uint8))
    info: dict[str, object] = {
        "id": segment_id,
        "category_id": segment.label,
        "area": segment.area,
        "bbox": [x, y, width, height],
        "iscrowd": 0,
    }
    return info | {"score": round(segment.score, 4)} if segment.is_thing else info


def _categories(classes: ClassTable) -> list[dict[str, object]]:
    return [
        {
            "id": index,
            "name": name,
            "supercategory": name,
            "isthing": int(index in classes.things),
            "color": list(classes.palette[index]),
        }
        for index, name in enumerate(classes.names)
    ]
