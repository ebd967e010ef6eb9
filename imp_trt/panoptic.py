"""One map of segments from a class map and instances: every pixel has one class and at most one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import IGNORE_INDEX
from imp_trt.errors import InvalidInput

if TYPE_CHECKING:
    from imp_trt.result import SegmentationResult


class Segment(NamedTuple):
    """One region of a panoptic map.

    Attributes:
        id: its number in the map, from 1.
        label: semantic class index.
        is_thing: an object, not a region of a stuff class.
        score: of the detection, 0-1; 1 for stuff.
        area: pixels.
    """

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True, eq=False)
class Panoptic:
    """Segments that do not overlap.

    Attributes:
        ids: [h, w] int32, number of the segment at each pixel, 0 = void (none).
        segments: by number, without gaps: ``segments[i].id == i + 1``. Things come first, by falling score,
            then stuff by class.
    """

    ids: NDArray[np.int32]
    segments: tuple[Segment, ...]

    def __repr__(self) -> str:
        h, w = self.ids.shape
        things = sum(s.is_thing for s in self.segments)
        return f"Panoptic({w}x{h}, {things} things, {len(self.segments) - things} stuff)"


def fuse_panoptic(
    result: SegmentationResult,
    *,
    min_score: float = 0.5,
    max_covered: float = 0.5,
    min_stuff_area: int = 0,
) -> Panoptic:
    """Fuse the class map and the instances of a result to segments that do not overlap.

    The rule of Kirillov et al., "Panoptic Feature Pyramid Networks" (CVPR 2019, section 3): instances are
    laid down by falling score, each on the pixels that are still free; one that is covered too much is
    dropped. Then each stuff class of the class map becomes one segment of the pixels still free. What the
    class map calls a thing where no instance lies is void: nobody knows which object it belongs to.

    Args:
        result: what a Segmenter gave.
        min_score: instances below are left out. On CamVid the choice matters little: from 0.3 to 0.7 the
            panoptic quality of the project's model stayed within 0.012.
        max_covered: instances are dropped if more than this share of their mask (0-1) is taken.
        min_stuff_area: stuff segments of fewer pixels become void. The paper takes 64 * 64 on COCO's pictures
            of about 640x480; 0 keeps thin things such as poles and signs.

    Raises:
        InvalidInput: a value is out of its range.
    """
    for name, share in (("min_score", min_score), ("max_covered", max_covered)):
        if not 0 <= share <= 1:
            raise InvalidInput(name, expected="0 to 1", got=share)
    if min_stuff_area < 0:
        raise InvalidInput("min_stuff_area", expected="0 or more pixels", got=min_stuff_area)
    ids = np.zeros(result.size, np.int32)
    segments: list[Segment] = []
    found = result.instances
    for index in np.argsort(-found.scores, kind="stable"):
        score = float(found.scores[index])
        if score < min_score:
            break
        mask, left, top = found.crop(int(index))
        area = int(np.count_nonzero(mask))
        place = ids[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (place == 0)
        visible = int(np.count_nonzero(free))
        if not visible or area - visible > max_covered * area:
            continue
        place[free] = len(segments) + 1
        segments.append(Segment(len(segments) + 1, int(found.labels[index]), True, score, visible))
    semantic = np.where(ids == 0, result.semantic, IGNORE_INDEX)
    areas = np.bincount(semantic.ravel(), minlength=IGNORE_INDEX)
    for label in result.classes.stuff:
        if areas[label] >= max(1, min_stuff_area):
            ids[semantic == label] = len(segments) + 1
            segments.append(Segment(len(segments) + 1, label, False, 1.0, int(areas[label])))
    return Panoptic(ids, tuple(segments))
