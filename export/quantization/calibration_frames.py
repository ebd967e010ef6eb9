# SPDX-License-Identifier: Apache-2.0
"""The images that int8 and fp8 are calibrated with; importing this imports no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.errors import InvalidInput
from imp_trt.export.verification.frames import digests, spread

PURPOSE = (
    "--calib names a folder of images like those of the application, 32 or more, from which the ranges of "
    "int8 and fp8 are measured"
)

DEFAULT_LIMIT = 128
"""Default maximum number of calibration frames."""


@dataclass(frozen=True)
class CalibrationFrames:
    """A folder of images like those in use.

    Attributes:
        folder: images.
        limit: maximum number of images, which are evenly spaced in a larger folder.

    Raises:
        SourceError: the folder does not exist or has no image.
        InvalidInput: limit is below 1.
    """

    folder: Path
    limit: int = DEFAULT_LIMIT

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InvalidInput("limit of calibration frames", expected="at least 1", got=self.limit)
        self.paths()

    def paths(self) -> list[Path]:
        """The images, in order."""
        return spread(self.folder, self.limit, PURPOSE)

    def digests(self) -> list[bytes]:
        """Digest of the file of each image; equal ones are copies."""
        return digests(self.paths())

    def load(self, contract: InputContract) -> Iterator[NDArray[np.uint8]]:
        """Frames [H, W, 3] uint8 BGR, resized as the contract defines.

        Raises:
            SourceError: an image cannot be read.
        """
        from imp_trt.data.images import read_image
        from imp_trt.preprocessing.letterbox import LetterboxTransform

        for path in self.paths():
            image = read_image(path)
            yield LetterboxTransform.of((image.shape[0], image.shape[1]), contract).apply(image)
