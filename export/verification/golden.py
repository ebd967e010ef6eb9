# SPDX-License-Identifier: Apache-2.0
"""Golden frames: made where the checkpoint is, replayed where only the exported network is."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.golden import MAX_FILE_BYTES, Golden, pack_golden
from imp_trt.backends import Backend
from imp_trt.export.verification.gates import Agreement, FrameDetections
from imp_trt.preprocessing.letterbox import LetterboxTransform

GOLDEN_FRAMES = 3
"""Number of golden frames of an export; fewer if they would have more than GOLDEN_BYTES."""

GOLDEN_BYTES = 4 << 20

_log = logging.getLogger(__name__)


@dataclass
class Candidates:
    """The frames on which an export agrees best with the trained network; instances count first.

    These leave a device the most room below the gates: its kernels round differently.

    Attributes:
        kept: (rank, index, frame [h, w, 3] uint8 BGR), at most GOLDEN_FRAMES.
    """

    kept: list[tuple[tuple[bool, float, float], int, NDArray[np.uint8]]] = field(default_factory=list)

    def add(self, index: int, image: NDArray[np.uint8], agreement: Agreement) -> None:
        """Offer a frame with its own agreement; it is copied if it is kept."""
        rank = (agreement.matched > 0, agreement.instance_f1, agreement.label_agreement)
        if len(self.kept) == GOLDEN_FRAMES:
            worst = min(self.kept, key=lambda item: item[:2])
            if rank <= worst[0]:
                return
            self.kept.remove(worst)
        self.kept.append((rank, index, image.copy()))

    def images(self) -> list[NDArray[np.uint8]]:
        """The kept frames, in order."""
        return [image for _, _, image in sorted(self.kept, key=lambda item: item[1])]


def make_golden(reference: Backend, images: list[NDArray[np.uint8]]) -> bytes | None:
    """The golden file of a trained network.

    Args:
        reference: the network in float32.
        images: frames [h, w, 3] uint8 BGR, at least one; at most GOLDEN_FRAMES are used.

    Returns:
        Content of the file; None, with a warning, if one frame already has more than MAX_FILE_BYTES.
    """
    golden = _answer(reference, images[:GOLDEN_FRAMES])
    while True:
        data = pack_golden(golden)
        if len(data) <= (GOLDEN_BYTES if len(golden) > 1 else MAX_FILE_BYTES):
            return data
        if len(golden) == 1:
            break
        golden = _first(golden, len(golden) - 1)
    _log.warning(
        "no golden frames: one has %.1f MB compressed, more than %.1f MB; devices cannot verify the artifact",
        len(data) / 1e6,
        MAX_FILE_BYTES / 1e6,
    )
    return None


def replay(backend: Backend, golden: Golden) -> tuple[Agreement, float]:
    """Run a network on its golden frames and compare the answers.

    Returns:
        Agreement on the frames' images, without their padding, and the median time of a network call in ms.
    """
    batch = backend.manifest.input.batch
    agreement = Agreement()
    times = []
    for start in range(0, len(golden), batch):
        rows = np.arange(start, start + batch) % len(golden)  # the last batch is filled with the first frames
        frames = np.ascontiguousarray(golden.frames[rows])
        begin = perf_counter()
        outputs = backend.infer(frames)
        times.append((perf_counter() - begin) * 1e3)
        for i in range(min(batch, len(golden) - start)):
            h, w = golden.sizes[start + i]
            classes = golden.outputs["semantic"][start + i], outputs["semantic"][i]
            pair = valid_detections(golden.outputs, start + i), valid_detections(outputs, i)
            agreement.add((classes[0][:h, :w], classes[1][:h, :w]), pair)
    return agreement, statistics.median(times)


def _answer(reference: Backend, images: list[NDArray[np.uint8]]) -> Golden:
    contract = reference.manifest.input
    transforms = [LetterboxTransform.of((image.shape[0], image.shape[1]), contract) for image in images]
    frames = [np.ascontiguousarray(t.apply(image)) for t, image in zip(transforms, images, strict=True)]
    answers = [reference.infer(frame[None]) for frame in frames]
    outputs = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
    used = np.arange(outputs["masks"].shape[1]) < outputs["num_detections"][:, None]  # [F, N]
    outputs["masks"] = np.where(used[:, :, None, None], outputs["masks"], np.float32(0))
    return Golden(np.stack(frames), np.array([t.resized for t in transforms], np.int32), outputs)


def _first(golden: Golden, count: int) -> Golden:
    outputs = {name: array[:count] for name, array in golden.outputs.items()}
    return Golden(golden.frames[:count], golden.sizes[:count], outputs)


def valid_detections(outputs: Mapping[str, NDArray[Any]], i: int) -> FrameDetections:
    """The finite detections of frame i of a network's outputs, as they are decoded for results."""
    count = min(max(int(outputs["num_detections"][i]), 0), outputs["scores"].shape[1])
    boxes, scores = outputs["boxes"][i, :count], outputs["scores"][i, :count]
    keep = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    labels, masks = (outputs[name][i, :count][keep] for name in ("labels", "masks"))
    return FrameDetections(boxes[keep], labels, scores[keep], masks)
