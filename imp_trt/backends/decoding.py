# SPDX-License-Identifier: Apache-2.0
"""From the network's detections to Instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import Manifest
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.instances import Instances

HostOutputs = dict[str, NDArray[Any]]
"""Output name -> array [B, ...], each of its own dtype; see :meth:`imp_trt.backends.Backend.infer`."""

DETECTION_NAMES = ("num_detections", "scores", "labels", "boxes", "masks")
"""The outputs that Instances are made from."""


def decode_instances(
    outputs: Mapping[str, NDArray[Any]],
    i: int,
    transform: LetterboxTransform,
    manifest: Manifest,
    min_score: float = 0.0,
) -> Instances:
    """The objects of frame i of a batch, in that frame's pixels.

    Args:
        outputs: DETECTION_NAMES -> [B, ...], as :class:`imp_trt.backends.Backend` returns them, and
            optionally track_ids and ages [B, N] int32; not changed.
        i: index in the batch.
        transform: of frame i.
        manifest: of the network.
        min_score: instances with a lower score are left out.
    """
    h, w = transform.frame
    count = min(max(int(outputs["num_detections"][i]), 0), outputs["scores"].shape[1])
    labels, scores = outputs["labels"][i, :count], outputs["scores"][i, :count]
    masks = outputs["masks"][i, :count]  # [count, P, P]
    # [count, 4] xyxy: what the masks span, and the part of it inside of the frame.
    mask_boxes = transform.invert_boxes(outputs["boxes"][i, :count])
    boxes = np.clip(mask_boxes, 0, np.array([w, h, w, h], np.float32))
    # As in the IMP operator: an instance without a finite box or a positive score contributes nothing.
    keep = np.isfinite(mask_boxes).all(axis=1) & np.isfinite(scores) & (scores > 0)
    keep &= scores >= min_score
    keep &= (labels >= 0) & (labels < len(manifest.classes))
    keep &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Instances(
        boxes[keep],
        labels[keep],
        scores[keep],
        masks[keep],
        transform.frame,
        manifest.sampling,
        mask_boxes[keep],
        *(outputs[name][i, :count][keep] if name in outputs else None for name in ("track_ids", "ages")),
    )
