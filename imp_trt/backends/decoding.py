"""Between frames and the network's tensors: the way in, and from its detections to Instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.preprocessing.letterbox import Fit
from imp_trt.results.instances import Instances

DETECTION_NAMES = ("num_detections", "scores", "labels", "boxes", "masks")
"""The outputs that Instances are made from."""


def place(
    batch: NDArray[np.uint8],
    frames: Sequence[tuple[NDArray[np.uint8], str]],
    fits: Sequence[Fit],
    pad_value: int,
) -> None:
    """Bring frames to the network's size, BGR, in the first places of a batch; gray in the rest.

    Args:
        batch: [B, H, W, 3] uint8, contiguous; written.
        frames: [h, w, 3] uint8, contiguous, and "bgr" or "rgb"; at most B; not changed.
        fits: the geometry of each.
        pad_value: gray level of the places that have no frame.
    """
    for slot, (pixels, order), fit in zip(batch, frames, fits, strict=False):
        if order == "bgr":
            fit.forward(pixels, out=slot)
        else:
            # After the resize, where there are usually fewer pixels to swap.
            cv2.cvtColor(fit.forward(pixels), cv2.COLOR_RGB2BGR, dst=slot)
    if len(frames) < len(batch):
        batch[len(frames) :] = pad_value


def decode_instances(outputs: Mapping[str, NDArray[Any]], i: int, fit: Fit, manifest: Manifest) -> Instances:
    """The objects of frame i of a batch, in that frame's pixels.

    Args:
        outputs: DETECTION_NAMES -> [B, ...], as :class:`imp_trt.backends.Backend` gives them; not changed.
    """
    h, w = fit.frame
    count = min(max(int(outputs["num_detections"][i]), 0), outputs["scores"].shape[1])
    labels, scores = outputs["labels"][i, :count], outputs["scores"][i, :count]
    spans = fit.boxes_back(outputs["boxes"][i, :count])
    boxes = np.clip(spans, 0, np.array([w, h, w, h], np.float32))
    # As in the IMP operator: what cannot be placed contributes nothing.
    keep = np.isfinite(spans).all(axis=1) & np.isfinite(scores) & (scores > 0)
    keep &= (labels >= 0) & (labels < len(manifest.classes))
    keep &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    masks = outputs["masks"][i, :count]
    return Instances(
        boxes[keep], labels[keep], scores[keep], masks[keep], fit.frame, manifest.sampling, spans[keep]
    )
