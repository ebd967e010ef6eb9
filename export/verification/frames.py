"""The frames that an export is verified on: the user's own, filled up from the procedural scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.export.options import DEFAULT_FRAMES

SCENES_SEED = 3
SCENES_SIZE = (256, 512)


@dataclass(frozen=True)
class VerificationFrames:
    """Frames in a fixed order.

    Attributes:
        folder: images of the user, or None; of a larger folder as many as count, spread evenly.
        count: frames in all, at least 1.
    """

    folder: Path | None = None
    count: int = DEFAULT_FRAMES

    def __len__(self) -> int:
        return self.count

    @property
    def description(self) -> str:
        """Where the frames come from, for the manifest."""
        own = len(self._paths())
        parts = []
        if own and self.folder is not None:
            parts.append(f"{own} images of {self.folder.name}")
        if self.count > own:
            height, width = SCENES_SIZE
            parts.append(f"{self.count - own} procedural scenes {width}x{height}, seed {SCENES_SEED}")
        return ", ".join(parts)

    def check(self) -> None:
        """Raises SourceError if the folder is not there or holds no image."""
        self._paths()

    def load(self, classes: ClassTable) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]:
        """Frames [h, w, 3] uint8 BGR, each with its class map [h, w] uint8 where that is known.

        Args:
            classes: classes of the network; the scenes' labels are given only if they are the same.
        """
        from imp_trt.data.images import read_image
        from imp_trt.synthetic import SCENE_CLASSES, StreetScenes

        paths = self._paths()
        for path in paths:
            yield read_image(path), None
        if self.count > len(paths):
            scenes = StreetScenes(seed=SCENES_SEED, size=SCENES_SIZE, length=self.count - len(paths))
            labeled = classes.names == SCENE_CLASSES.names
            for index in range(len(scenes)):
                sample = scenes[index]
                yield sample.image, sample.semantic if labeled else None

    def _paths(self) -> list[Path]:
        if self.folder is None:
            return []
        return spread(self.folder, self.count)


def spread(folder: Path, count: int) -> list[Path]:
    """Every image of a folder, or count of them spread evenly, in order.

    Raises:
        SourceError: the folder is not there or holds no image.
    """
    from imp_trt.video.sources import open_source

    with open_source(folder) as source:
        paths: list[Path] = list(source.paths)
    if len(paths) <= count:
        return paths
    return [paths[i * len(paths) // count] for i in range(count)]
