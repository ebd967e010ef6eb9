# SPDX-License-Identifier: Apache-2.0
"""Panoptic maps in COCO's format: one PNG per frame and one JSON file with the segments."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt._deprecated import renamed_parameters
from imp_trt.classes import ClassTable, Rgb
from imp_trt.data.files import temporary_beside, unwritable
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.data.native_calls import native_call
from imp_trt.errors import OutputError
from imp_trt.results.instances import check_min_score
from imp_trt.results.panoptic import Panoptic, Segment
from imp_trt.video.sinks.images import ImageSink, is_pattern
from imp_trt.video.sinks.sink import SegmentedFrame
from imp_trt.video.sinks.text_file import TextFile

JSON_NAME = "panoptic.json"

_EVERY_S = 10.0
_JSON_FRACTION = 0.02  # of the time is spent on replacing the JSON file

_SHADE_STEP, _SHADES = 12, 8

_SegmentMap = NDArray[np.uint8] | NDArray[np.int32]
"""[h, w], index of the segment of each pixel, 0 = void."""


class PanopticMaps(ImageSink):
    """Writes PNGs whose colors are segment ids (R + 256 G + 65536 B, 0 = void), and panoptic.json.

    The ids are shades of the class colors, so that the maps are viewable. The JSON file has COCO's lists
    images, annotations (with segments_info) and categories; category ids are the class indices. The maps are
    written immediately. The JSON file is complete when the sink is closed; until then it is replaced by a
    longer one every ten seconds, or less often if that takes long.

    Args:
        path: a folder. The maps in it are named after the frames.
        min_score: minimum score of instances; see :func:`imp_trt.results.panoptic.fuse_panoptic`.

    Raises:
        InvalidInput: min_score is above 1 or NaN.
        OutputError: the path is a file, or not writable.
    """

    @renamed_parameters(place="path")
    def __init__(self, path: str | os.PathLike[str], min_score: float = 0.5) -> None:
        check_min_score(min_score)
        folder = Path(path)
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
        # The file has two lists. They are collected in temporary files to keep memory constant.
        self._annotations = TextFile(folder / f".{JSON_NAME}.annotations")
        self._images = TextFile(folder / f".{JSON_NAME}.images")
        self._next_s = time.monotonic() + _EVERY_S
        self._classes: ClassTable | None = None
        self._segments: list[dict[str, object]] = []
        self.recovers = True

    def write(self, item: SegmentedFrame) -> bool:
        """See :meth:`Sink.write`."""
        if self._annotations.done:
            raise OutputError(f"{self._json} cannot be written", got="a closed sink")
        super().write(item)
        first = self._classes is None
        self._classes = item.result.classes
        number = self._written
        name = self._name(item)
        height, width = item.result.size
        image = {"id": number, "file_name": name, "width": width, "height": height}
        annotation = {"image_id": number, "file_name": name, "segments_info": self._segments}
        self.recovers = False  # while only one of the lists has the frame
        self._images.write(f"{'' if first else ','}\n{json.dumps(image)}")
        self._annotations.write(f"{'' if first else ','}\n{json.dumps(annotation, allow_nan=False)}")
        self.recovers = True
        start = time.monotonic()
        if start >= self._next_s:
            self._write_json()
            end = time.monotonic()
            self._next_s = end + max(_EVERY_S, (end - start) / _JSON_FRACTION)
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        try:
            if self._classes is not None and not self._annotations.done:
                self._write_json(sync=True)
        finally:
            self.abort()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._annotations.discard()
        self._images.discard()

    def _write_json(self, sync: bool = False) -> None:
        """Replace the JSON file by one with all frames so far."""
        assert self._classes is not None  # noqa: S101  # there is a frame
        categories = json.dumps(_categories(self._classes))
        try:
            with temporary_beside(self._json) as temporary:
                with temporary.open("w", encoding="utf-8") as file:
                    file.write('{"annotations": [')
                    file.writelines(self._annotations.parts())
                    file.write('\n],\n"images": [')
                    file.writelines(self._images.parts())
                    file.write(f'\n],\n"categories": {categories}}}\n')
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
                os.replace(temporary, self._json)
        except OSError as error:
            raise unwritable(self._json, error) from error

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
