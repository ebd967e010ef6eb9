# SPDX-License-Identifier: Apache-2.0
"""The canvas outside of the network: projected from detections, and the file that takes it as an input."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Artifact
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.manifest import Manifest, Precision
from imp_trt.artifacts.reading import read_artifact
from imp_trt.errors import ArtifactError
from imp_trt.ops.mask_projection.numpy import instance_mask_projection_numpy

CanvasShape = tuple[int, int, int, int]
"""[B, T, h, w]: frames per call, thing classes, pixels of the canvas."""

HALF: tuple[Precision, ...] = ("fp16", "int8", "fp8")
"""Precisions in which the network computes its canvas in float16."""


def project_detections(
    outputs: Mapping[str, NDArray[Any]], manifest: Manifest, shape: CanvasShape
) -> NDArray[np.float32]:
    """The canvas of the network's own detections.

    Computed as in the network: with masks of its type, and by its sampling rule.

    Args:
        outputs: boxes, scores, labels, masks and num_detections, as :class:`imp_trt.backends.Backend`
            returns them; not changed.
        manifest: of the network.
        shape: of the canvas.

    Returns:
        [B, T, h, w] float32.
    """
    _, things, height, width = shape
    channels = np.full(len(manifest.classes) + 1, -1, np.int64)
    channels[list(manifest.classes.things)] = np.arange(things)
    labels = outputs["labels"]
    known = (labels >= 0) & (labels < len(manifest.classes))
    used = np.arange(labels.shape[1]) < outputs["num_detections"][:, None]  # [B, N]
    masks = outputs["masks"].astype(np.float16 if manifest.precision in HALF else np.float32, copy=False)
    canvas = instance_mask_projection_numpy(
        outputs["boxes"],
        outputs["scores"],
        channels[np.where(known & used, labels, len(manifest.classes))],
        masks,
        things,
        (height, width),
        height / manifest.input.height,
        manifest.sampling,
    )
    return canvas.astype(np.float32, copy=False)


def read_canvas_part(path: str | os.PathLike[str], opened: Manifest) -> tuple[Artifact, CanvasPart, bytes]:
    """The canvas part of an artifact that is open already.

    Args:
        path: of the artifact.
        opened: its manifest when it was opened.

    Returns:
        the artifact, the part's entry in the manifest, and its bytes.

    Raises:
        ArtifactError: it has none, it is missing or damaged, or the artifact was replaced meanwhile.
    """
    artifact = read_artifact(path, canvas=True)
    if artifact.manifest.sha256 != opened.sha256:
        raise ArtifactError(
            f"artifact {path}",
            expected=f"the file that was opened before, sha256 {opened.sha256}",
            got=artifact.manifest.sha256,
            fix="open a new Segmenter",
        )
    part = artifact.manifest.canvas_part
    if part is None or artifact.canvas is None:
        raise ArtifactError(
            f"artifact {path}",
            expected="a canvas part, to run frames without the detector",
            got="an artifact without one",
            fix="imp-export --parts --weights CHECKPOINT -o NAME.onnx",
        )
    return artifact, part, artifact.canvas
