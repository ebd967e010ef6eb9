# SPDX-License-Identifier: Apache-2.0
"""Golden frames of tests.support.tiny's network, whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from imp_trt.artifacts.golden import Golden, pack_golden
from imp_trt.artifacts.writing import write_artifact
from tests.support import tiny


def golden(count: int = 2) -> Golden:
    """Frames with the network's answers."""
    frames = np.stack([tiny.frame(seed=i) for i in range(count)])
    constants = {
        "boxes": tiny.BOXES,
        "scores": tiny.SCORES,
        "labels": tiny.LABELS,
        "masks": tiny.MASKS,
        "num_detections": np.array(2, np.int32),
    }
    outputs = {name: np.repeat(array[None], count, axis=0) for name, array in constants.items()}
    outputs = {"semantic": np.stack([tiny.truth(frame) for frame in frames]), **outputs}
    sizes = np.repeat(np.array([[tiny.HEIGHT, tiny.WIDTH]], np.int32), count, axis=0)
    return Golden(frames, sizes, outputs)


def onnx_artifact(
    folder: Path,
    model: onnx.ModelProto | None = None,
    frames: Golden | None = None,
    batch: int = 1,
    **changes: object,
) -> Path:
    """An ONNX artifact with golden frames; changes go to its manifest, in which there are no operators."""
    manifest = tiny.manifest(batch, **({"ops": {}, "precision": "fp16"} | changes))
    payload = (model or tiny.graph(batch)).SerializeToString()
    path = folder / f"tiny.{manifest.precision}.onnx"
    return write_artifact(path, payload, manifest, pack_golden(frames or golden()))


def wrong_golden() -> Golden:
    """Golden frames of another network: one class map is a class off."""
    right = golden()
    semantic = right.outputs["semantic"].copy()
    semantic[0] = (semantic[0] + 1) % 4
    return Golden(right.frames, right.sizes, {**right.outputs, "semantic": semantic})
