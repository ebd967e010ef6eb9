# SPDX-License-Identifier: Apache-2.0
"""Frames for verification: images of the user, complemented by synthetic street scenes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.export.options import DEFAULT_FRAMES

SCENES_SEED = 3
SCENES_SIZE = (256, 512)
PURPOSE = (
    "--frames names a folder of images like those of the application, 50 or more, on which the export is "
    "compared with PyTorch"
)
DRAWN = "synthetic street scenes"
"""Frames that the package renders itself, in manifests and messages."""

_LABEL_MAP = re.compile(r"(.+)_(mask|labels?|labelids|gt|seg)", re.IGNORECASE)
_PNG_COLOR_TYPE, _GRAY_OR_PALETTE = 25, (0, 3)

UNLIKE = "which this network was not trained on: verify on images of the application with --frames DIR"


@dataclass(frozen=True)
class VerificationFrames:
    """Frames in a fixed order.

    Attributes:
        folder: images of the user, or None; of a larger folder `count` images, evenly spaced.
        count: number of frames, at least 1.
    """

    folder: Path | None = None
    count: int = DEFAULT_FRAMES

    def __len__(self) -> int:
        return self.count

    @property
    def description(self) -> str:
        """Source of the frames, for the manifest."""
        images = len(self._paths())
        parts = []
        if images and self.folder is not None:
            parts.append(f"{images} images of {self.folder.name}")
        if self.count > images:
            height, width = SCENES_SIZE
            parts.append(f"{self.count - images} {DRAWN} {width}x{height}, seed {SCENES_SEED}")
        return ", ".join(parts)

    def check(self) -> None:
        """Raises SourceError if the folder does not exist or has no image."""
        self._paths()

    def digests(self) -> list[bytes]:
        """Digest of the file of each image of the folder; equal ones are copies."""
        return digests(self._paths())

    def unlike(self, classes: ClassTable) -> str:
        """What a comparison on these frames says less about, or empty.

        Args:
            classes: of the network; one of other classes than the scenes' was trained on other images.
        """
        from imp_trt.synthetic import SCENE_CLASSES

        drawn = self.count - len(self._paths())
        if drawn <= 0 or classes.names == SCENE_CLASSES.names:
            return ""
        return f"{drawn} of {self.count} are {DRAWN}, {UNLIKE}"

    def has_ground_truth(self, classes: ClassTable) -> bool:
        """Whether a frame has ground truth for a network of these classes."""
        from imp_trt.synthetic import SCENE_CLASSES

        return self.count > len(self._paths()) and classes.names == SCENE_CLASSES.names

    def load(self, classes: ClassTable) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8] | None]]:
        """Frames [h, w, 3] uint8 BGR, each with its ground truth class map [h, w] uint8 or None.

        Args:
            classes: of the network; only scenes of the same classes have ground truth.
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
        return spread(self.folder, self.count, PURPOSE)


def digests(paths: Sequence[Path]) -> list[bytes]:
    """Digest of each file; of one that cannot be read, of its path."""
    from imp_trt.data.files import read_regular
    from imp_trt.data.images import MAX_BYTES

    found = []
    for path in paths:
        try:
            content = read_regular(path, MAX_BYTES)
        except OSError:  # reported where the image is read
            content = bytes(path)
        found.append(hashlib.sha256(content).digest())
    return found


def spread(folder: Path, count: int, purpose: str) -> list[Path]:
    """The images of a folder, or `count` evenly spaced ones of them, in order.

    Label maps next to their images are left out with a warning: PNGs in gray or with a palette, such as
    a_mask.png next to a.jpg.

    Args:
        folder: images.
        count: maximum number.
        purpose: which option names the folder and what it is for, for the error.

    Raises:
        SourceError: the folder does not exist or has no image, or it is a video or a stream.
    """
    from imp_trt.errors import SourceError
    from imp_trt.video.sources import open_source
    from imp_trt.video.sources.files import ImageSource

    try:
        with open_source(folder) as source:
            paths = list(source.paths) if isinstance(source, ImageSource) else None
    except SourceError as error:
        raise SourceError(
            str(folder), expected="a folder of images", got=error.got or error.what, fix=purpose
        ) from error
    if paths is None:
        raise SourceError(
            str(folder),
            expected="a folder of images",
            got="a video or stream",
            fix=f"{purpose}; ffmpeg -i VIDEO -vf fps=1 FOLDER/%04d.png takes one per second",
        )
    paths = _without_label_maps(paths)
    if len(paths) <= count:
        return paths
    return [paths[i * len(paths) // count] for i in range(count)]


def _without_label_maps(paths: list[Path]) -> list[Path]:
    from imp_trt.data.images import warn_once

    stems = {path.stem for path in paths}
    matches = {path: _LABEL_MAP.fullmatch(path.stem) for path in paths if path.suffix.lower() == ".png"}
    labels = [path for path, match in matches.items() if match and match[1] in stems and _is_indexed(path)]
    if labels:
        text = f"is a label map of another image, as are {len(labels)} in all: they are not used"
        warn_once(labels[0], text)
    left_out = set(labels)
    return [path for path in paths if path not in left_out]


def _is_indexed(path: Path) -> bool:
    """Whether a PNG is gray or has a palette."""
    from imp_trt.data.files import open_regular

    try:
        with open_regular(path) as file:
            return file.read(_PNG_COLOR_TYPE + 1)[_PNG_COLOR_TYPE] in _GRAY_OR_PALETTE
    except (OSError, IndexError):  # reported where the image is read
        return False
