# SPDX-License-Identifier: Apache-2.0
"""The small network of the tests, really exported in each precision, once per process."""

from __future__ import annotations

import pickle
import tempfile
from functools import cache
from pathlib import Path
from typing import cast

import cv2

from imp_trt.artifacts.manifest import QUANTIZED
from imp_trt.export.quantization.calibration import CalibrationFrames, Histogram, Key, collect_ranges
from imp_trt.export.quantization.lowering import Lowered, lower
from imp_trt.export.quantization.quantize import quantize
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.once import once

ITERATIONS = 16
"""Passes of each NMS: as many as the network's own frames need."""


def write_calibration(folder: Path) -> None:
    """The images that the quantized forms are calibrated with."""
    for i, frame in enumerate(smooth_frames(3, (64, 96), seed=11).numpy()):
        cv2.imwrite(str(folder / f"{i}.png"), frame)


@cache
def typed(precision: str, system: str = "panoptic-fpn-imp") -> Lowered:
    """Made once for all processes of a test run; see `made`."""

    def make(folder: Path) -> None:
        (folder / "lowered.pickle").write_bytes(pickle.dumps(made(precision, system)))

    folder = once(f"lowered.{precision}.{system}", make)
    return cast(Lowered, pickle.loads((folder / "lowered.pickle").read_bytes()))  # noqa: S301  # made above


def made(precision: str, system: str = "panoptic-fpn-imp") -> Lowered:
    """The network in a precision; the quantized forms from one float16 graph, as lower makes them."""
    if precision not in QUANTIZED:
        return lower(detecting_network(small_config(system)), precision, nms_iterations=ITERATIONS)
    base = typed("fp16", system)
    return Lowered(quantize(base.model, precision, _ranges(system)), base.module, precision)


@cache
def _ranges(system: str) -> dict[Key, Histogram]:
    with tempfile.TemporaryDirectory() as name:
        write_calibration(Path(name))
        return collect_ranges(typed("fp32", system).module, CalibrationFrames(Path(name)))
