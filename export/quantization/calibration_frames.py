# SPDX-License-Identifier: Apache-2.0
"""The images that int8 and fp8 are calibrated with; importing this imports no PyTorch."""

from __future__ import annotations

import logging
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

_log = logging.getLogger(__name__)

MAX_ENLARGED = 2
"""Factor from which on most calibration frames are said to be too small."""

MAX_PADDING = 0.5
"""Share of the network's frame from which on most calibration frames are said to have another shape."""

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

        At the end a warning is logged if most images are far smaller than the network's frame, or leave most
        of it to padding: the ranges are then those of blurred images, or of gray.

        Raises:
            SourceError: an image cannot be read.
        """
        from imp_trt.data.images import read_image
        from imp_trt.preprocessing.letterbox import LetterboxTransform

        paths = self.paths()
        enlarged = padded = 0
        for path in paths:
            image = read_image(path)
            transform = LetterboxTransform.of((image.shape[0], image.shape[1]), contract)
            enlarged += min(transform.resized) > MAX_ENLARGED * min(transform.frame)
            padded += transform.padding > MAX_PADDING
            yield transform.apply(image)
        for count, what in (
            (enlarged, f"are enlarged by more than {MAX_ENLARGED}"),
            (padded, f"leave more than {MAX_PADDING:.0%} to padding"),
        ):
            if 2 * count > len(paths):
                _log.warning(
                    "%d of %d calibration frames in %s %s in the network's frame of %dx%d, so that the "
                    "ranges may not hold for others; use images as the application has them",
                    *(count, len(paths), self.folder, what, contract.width, contract.height),
                )
