# SPDX-License-Identifier: Apache-2.0
"""The one geometry rule between a caller's frame and the network's.

Letterbox keeps the aspect ratio and puts the image at the top left, so that coordinates only scale;
resize stretches each axis on its own. Sizes and the nearest-pixel rule are integer arithmetic, so
that every implementation (this one, CUDA, C++) picks the same pixels.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.data.cached_property import cached_property
from imp_trt.data.native_calls import native_call
from imp_trt.errors import InvalidInput

Size = tuple[int, int]


@dataclass(frozen=True)
class LetterboxTransform:
    """How frames of one size are resized for the network, and how its outputs are mapped back.

    Attributes:
        frame: (h, w) of the caller's frame, pixels.
        network: (H, W) of the network's frame, pixels.
        resized: (rh, rw) of the part of the network's frame that holds the image, from the top left.
        pad_value: gray level of the rest.
    """

    frame: Size
    network: Size
    resized: Size
    pad_value: int

    @classmethod
    def of(cls, frame: Size, contract: InputContract) -> LetterboxTransform:
        """Geometry for frames of (h, w) pixels under an input contract.

        Raises:
            InvalidInput: a side is not positive.
        """
        h, w = frame
        height, width = contract.height, contract.width
        if h < 1 or w < 1:
            raise InvalidInput("frame size", expected="at least 1 x 1 pixels", got=f"{h} x {w}")
        resized = (height, width)
        if contract.fit == "letterbox":
            # scale = min(H / h, W / w); the limiting side fits exactly, the other is rounded half up.
            if height * w <= width * h:
                resized = (height, _scaled(w, height, h))
            else:
                resized = (_scaled(h, width, w), width)
        return cls((h, w), (height, width), resized, contract.pad_value)

    @property
    def padding(self) -> float:
        """Fraction of the network's frame that is padding, 0 to 1."""
        return 1 - math.prod(self.resized) / math.prod(self.network)

    def apply(self, frame: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """The frame at the network's size.

        Pixels are area means where the image shrinks, and bilinear where it grows on either axis.

        Args:
            frame: [h, w, 3] uint8, contiguous; not changed.
            out: [H, W, 3] uint8, contiguous, written and returned; None allocates an array.

        Returns:
            [H, W, 3] uint8. With out=None and equal sizes this is frame itself, not a copy.

        Raises:
            InvalidInput: the frame has another shape or dtype.
        """
        if frame.shape != (*self.frame, 3) or frame.dtype != np.uint8:
            raise InvalidInput(
                "frame", expected=f"uint8 {[*self.frame, 3]}", got=f"{frame.dtype} {list(frame.shape)}"
            )
        if self.frame == self.network:
            if out is None:
                return frame
            out[...] = frame
            return out
        if out is None:
            out = np.empty((*self.network, 3), np.uint8)
        rh, rw = self.resized
        out[rh:] = self.pad_value
        out[:rh, rw:] = self.pad_value
        image = out[:rh, :rw]
        if self.frame == self.resized:
            image[...] = frame
        else:
            # OpenCV writes into the view: its rows are longer than the image, its pixels are contiguous.
            with native_call():
                cv2.resize(frame, (rw, rh), dst=image, interpolation=self._interpolation)
        return out

    def invert_mask(self, semantic: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class map in the caller's frame, by nearest-neighbor interpolation.

        Pixel x takes network pixel floor((x + 0.5) * rw / w), computed without rounding.

        Args:
            semantic: [H, W] uint8; not changed.

        Returns:
            [h, w] uint8; semantic itself if the sizes are equal.

        Raises:
            InvalidInput: the class map has another shape.
        """
        if semantic.shape != self.network:
            raise InvalidInput(
                "class map", expected=f"shape {list(self.network)}", got=f"shape {list(semantic.shape)}"
            )
        if self.frame == self.network:
            return semantic
        rows, columns = self._nearest
        # Columns first: the many row copies that follow are plain memory copies.
        narrow = np.take(semantic, columns, axis=1)  # [H, w]
        return np.take(narrow, rows, axis=0)

    def invert_boxes(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes in the caller's frame; not clipped, because a mask spans its whole box.

        Args:
            boxes: [N, 4] float32, xyxy, pixels of the network's frame; not changed.

        Returns:
            [N, 4] float32, xyxy, pixels of the caller's frame.
        """
        (h, w), (rh, rw) = self.frame, self.resized
        factor = np.array([w / rw, h / rh, w / rw, h / rh])
        return np.asarray(boxes * factor, np.float32)

    # ---- names of version 0.1 ----

    def forward(self, frame: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Deprecated: use :meth:`apply`."""
        _deprecated("forward", "apply")
        return self.apply(frame, out)

    def semantic_back(self, semantic: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Deprecated: use :meth:`invert_mask`."""
        _deprecated("semantic_back", "invert_mask")
        return self.invert_mask(semantic)

    def boxes_back(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Deprecated: use :meth:`invert_boxes`."""
        _deprecated("boxes_back", "invert_boxes")
        return self.invert_boxes(boxes)

    @property
    def _interpolation(self) -> int:
        shrinks = self.resized[0] <= self.frame[0] and self.resized[1] <= self.frame[1]
        return cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR

    @cached_property
    def _nearest(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The network's row for each row of the frame, [h], and its column for each column, [w]."""
        (h, w), (rh, rw) = self.frame, self.resized
        rows = (2 * np.arange(h, dtype=np.intp) + 1) * rh // (2 * h)
        columns = (2 * np.arange(w, dtype=np.intp) + 1) * rw // (2 * w)
        return rows, columns


def _scaled(side: int, numerator: int, denominator: int) -> int:
    """side * numerator / denominator, rounded half up, at least 1."""
    return max(1, (2 * side * numerator + denominator) // (2 * denominator))


def _deprecated(old: str, new: str) -> None:
    warnings.warn(
        f"LetterboxTransform.{old} is deprecated, use LetterboxTransform.{new}",
        DeprecationWarning,
        stacklevel=3,
    )
