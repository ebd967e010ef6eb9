# SPDX-License-Identifier: Apache-2.0
"""Videos with the exact class of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Sample
from imp_trt.synthetic import SCENE_CLASSES, street_video
from imp_trt.train.datasets import open_dataset

SIZE = (256, 512)


@dataclass(frozen=True)
class Drive:
    """A procedural video: drives of the same length along different streets, with a cut between two.

    Attributes:
        seeds: one for each street.
        frames: of each drive.
        fps: frames per second of a car at 7.5 m/s; fewer mean faster motion between frames.
    """

    seeds: tuple[int, ...]
    frames: int
    fps: float

    def __iter__(self) -> Iterator[Sample]:
        for seed in self.seeds:
            yield from street_video(seed, self.frames, SIZE, self.fps)


VIDEOS = {
    "streets": Drive((101, 102), 40, 15.0),
    "streets-fast": Drive((101, 102), 40, 5.0),
    "streets-cuts": Drive((103, 104, 105, 106, 107, 108, 109, 110), 10, 15.0),
}


def open_video(spec: str) -> tuple[str, ClassTable, list[Sample]]:
    """Name, classes and frames of a video: a name of VIDEOS, or camvid:DIR for its validation clip."""
    if spec in VIDEOS:
        return spec, SCENE_CLASSES, list(VIDEOS[spec])
    dataset = open_dataset(spec, "val")
    return spec.partition(":")[0], dataset.classes, [dataset[i] for i in range(len(dataset))]
