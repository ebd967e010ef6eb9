"""The small network of the tests, really exported in each precision, once per process."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import cv2

from imp_trt.export.calibration import CalibrationFrames
from imp_trt.export.lowering import QUANTISED, Lowered, lower
from tests.support.networks import detecting_network, small_config, smooth_frames


@cache
def typed(precision: str) -> Lowered:
    """The network in a precision, with as many NMS passes as its own frames need."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration = None
        if precision in QUANTISED:
            for i, frame in enumerate(smooth_frames(3, (64, 96), seed=11).numpy()):
                cv2.imwrite(str(folder / f"{i}.png"), frame)
            calibration = CalibrationFrames(folder)
        return lower(detecting_network(small_config()), precision, passes=16, calibration=calibration)
