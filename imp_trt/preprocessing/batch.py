# SPDX-License-Identifier: Apache-2.0
"""Frames of any size in one input batch of the network."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.native_calls import native_call
from imp_trt.preprocessing.frames import ColorOrder
from imp_trt.preprocessing.letterbox import LetterboxTransform


def preprocess_batch(
    batch: NDArray[np.uint8],
    frames: Sequence[tuple[NDArray[np.uint8], ColorOrder]],
    transforms: Sequence[LetterboxTransform],
    pad_value: int,
) -> None:
    """Write frames, resized to the network's size and in BGR order, into a batch; gray into the rest.

    Args:
        batch: [B, H, W, 3] uint8, contiguous; written.
        frames: [h, w, 3] uint8, contiguous, and the order of their channels; at most B; not changed.
        transforms: one for each frame.
        pad_value: gray level of the images of the batch that have no frame.
    """
    for image, (pixels, order), transform in zip(batch, frames, transforms, strict=False):
        if order == "bgr":
            transform.apply(pixels, out=image)
        else:
            # After the resize, where there are usually fewer pixels to swap.
            with native_call():
                cv2.cvtColor(transform.apply(pixels), cv2.COLOR_RGB2BGR, dst=image)
    if len(frames) < len(batch):
        batch[len(frames) :] = pad_value
