"""Panoptic maps in COCO's format: a PNG per frame and one JSON file that says what the colors mean."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable, Rgb
from imp_trt.data.images import IMAGE_SUFFIXES
from imp_trt.errors import OutputError
from imp_trt.results.panoptic import Panoptic, Segment
from imp_trt.video.sinks.pictures import Pictures
from imp_trt.video.sinks.sink import Segmented
from imp_trt.video.sinks.text_file import TextFile

JSON_NAME = "panoptic.json"

_SHADE_STEP, _SHADES = 12, 8


class PanopticMaps(Pictures):
    """PNGs in which a pixel's color is its segment's id (R + 256 G + 65536 B, 0 = void), and panoptic.json.

    The ids are shades of the class colors, so that the maps can be looked at. The JSON file has COCO's lists
    images, annotations (with segments_info) and categories; category ids are the class indices. It is in
    place when the sink is closed; the maps are as they come.

    Args:
        place: a folder. The maps are named after the frames, below it.
        min_score: instances below are left out; see :func:`imp_trt.results.panoptic.fuse_panoptic`.

    Raises:
        OutputError: the place is a file, or not writable.
    """

    def __init__(self, place: str | os.PathLike[str], min_score: float = 0.5) -> None:
        folder = Path(place)
        if folder.suffix.lower() in IMAGE_SUFFIXES or "%" in folder.name:
            raise OutputError(
                f"panoptic maps in {place}",
                expected="a folder: a JSON file belongs to the maps",
                got="the name of a picture",
                fix=f"name its folder, {folder.parent}",
            )
        super().__init__(folder)
        self._min_score = min_score
        self._annotations = TextFile(folder / JSON_NAME)
        # Two lists in one file: the second waits beside it, so that memory does not grow with the run.
        self._images = TextFile(folder / f".{JSON_NAME}.images")
        self._classes: ClassTable | None = None
        self._segments: list[dict[str, Any]] = []

    def write(self, item: Segmented) -> bool:
        """See :meth:`Sink.write`."""
        first = self._classes is None
        self._classes = item.result.classes
        super().write(item)
        number = self._written
        name = self._name(item)
        height, width = item.result.size
        image = {"id": number, "file_name": name, "width": width, "height": height}
        annotation = {"image_id": number, "file_name": name, "segments_info": self._segments}
        self._images.write(f"{'' if first else ','}\n{json.dumps(image)}")
        start = '{"annotations": [' if first else ","
        self._annotations.write(f"{start}\n{json.dumps(annotation, allow_nan=False)}")
        return True

    def close(self) -> None:
        """See :meth:`Sink.close`."""
        try:
            if self._classes is None or self._annotations.done:
                return
            self._annotations.write('\n],\n"images": [')
            for part in self._images.parts():
                self._annotations.write(part)
            categories = json.dumps(_categories(self._classes))
            self._annotations.write(f'\n],\n"categories": {categories}}}\n')
            self._annotations.commit()
        finally:
            self.abort()

    def abort(self) -> None:
        """See :meth:`Sink.abort`."""
        self._annotations.discard()
        self._images.discard()

    def _picture(self, item: Segmented) -> NDArray[np.uint8]:
        panoptic = item.result.panoptic(min_score=self._min_score)
        ids = segment_colors(panoptic, item.result.classes)
        # A quarter of the memory to walk through, which is most of the time this takes.
        narrow = panoptic.ids.astype(np.uint8) if len(ids) <= 256 else panoptic.ids
        self._segments = [
            _info(segment, int(number), narrow)
            for segment, number in zip(panoptic.segments, ids[1:], strict=True)
        ]
        return _painted(narrow, ids)


def segment_colors(panoptic: Panoptic, classes: ClassTable) -> NDArray[np.int64]:
    """An id for void (0) and each segment of a map, R + 256 G + 65536 B: [S + 1] int64, all different.

    The first segment of a class has the class's color, the others shades near it.
    """
    taken, counts = {0}, dict.fromkeys(range(len(classes)), 0)
    found = [0]
    for segment in panoptic.segments:
        number = 0
        while number in taken:
            number = _shade(classes.palette[segment.label], counts[segment.label])
            counts[segment.label] += 1
        taken.add(number)
        found.append(number)
    return np.array(found, np.int64)


def _shade(color: Rgb, count: int) -> int:
    """The id of the count-th shade of a color; after 512 of them, of any color."""
    if count >= _SHADES**3:
        return count
    number = 0
    for channel, value in enumerate(color):
        step = _SHADE_STEP * (count // _SHADES**channel % _SHADES)
        number |= (value + step if value < 128 else value - step) << 8 * channel
    return number


def _painted(numbers: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A map of segment numbers [h, w] as a picture of their ids [h, w, 3] uint8 BGR."""
    colors = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8)
    if numbers.dtype != np.uint8:
        return np.asarray(colors[numbers], np.uint8)
    table = np.zeros((256, 1, 3), np.uint8)
    table[: len(colors), 0] = colors
    return np.asarray(cv2.LUT(cv2.merge([numbers] * 3), table), np.uint8)


def _info(segment: Segment, number: int, numbers: NDArray[Any]) -> dict[str, Any]:
    """An entry of segments_info; numbers is the map of segment numbers [h, w]."""
    x, y, width, height = cv2.boundingRect((numbers == segment.id).view(np.uint8))
    info = {
        "id": number,
        "category_id": segment.label,
        "area": segment.area,
        "bbox": [x, y, width, height],
        "iscrowd": 0,
    }
    return info | {"score": round(segment.score, 4)} if segment.is_thing else info


def _categories(classes: ClassTable) -> Iterable[dict[str, Any]]:
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
