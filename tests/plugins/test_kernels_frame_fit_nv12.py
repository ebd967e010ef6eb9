# SPDX-License-Identifier: Apache-2.0
"""The kernel that converts and resizes NV12, run on the host under sanitizers."""

from __future__ import annotations

from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt import Nv12Frame
from imp_trt.artifacts.manifest import InputContract
from imp_trt.preprocessing.frames import to_bgr
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.preprocessing.nv12 import YuvToBgr
from tests.plugins.test_kernels_frame_fit import forward, grid_and_block
from tests.support.cuda_on_host.host_kernels import Long, Out
from tests.support.cuda_on_host.operators import garbage, kernels
from tests.support.nv12 import COLORS, every_color, nv12_reference, random_planes

SIZES = ((2, 2), (2, 38), (50, 40), (34, 90), (64, 96))


def apart(plane: NDArray[np.uint8], pitch: int) -> NDArray[np.uint8]:
    """The bytes of a plane whose rows are `pitch` apart, and nothing behind the last pixel."""
    rows = np.full((len(plane), pitch), 255, np.uint8)
    width = plane[0].size
    rows[:, :width] = plane.reshape(len(plane), width)
    return np.ascontiguousarray(rows.reshape(-1)[: (len(plane) - 1) * pitch + width])


def fused(fit: LetterboxTransform, frame: Any, slack: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Converted and resized by one kernel; `slack` bytes lie between the rows of Y, and of UV."""
    pitches = [fit.frame[1] + extra for extra in slack]
    planes = [apart(plane, pitch) for plane, pitch in zip((frame.y, frame.uv), pitches, strict=True)]
    out = Out(garbage((*fit.network, 3), np.uint8))
    sizes = [*map(Long, pitches), *fit.frame, *fit.resized, *fit.network, fit.pad_value, *YuvToBgr.of(frame)]
    (result,) = kernels("frame_fit").run(
        "imp_frame_fit_nv12", *grid_and_block(*fit.network), [*planes, out, *sizes]
    )
    return result


def fit_of(frame: tuple[int, int], network: tuple[int, int], rule: str = "resize") -> LetterboxTransform:
    return LetterboxTransform.of(
        frame, InputContract(height=network[0], width=network[1], fit=rule, pad_value=7)
    )


@pytest.mark.parametrize(("matrix", "levels"), COLORS)
def test_every_color_is_that_of_the_host(matrix: Any, levels: Any) -> None:
    y, uv = every_color()
    y, uv = y[:, :1024], uv[:, :512]  # each pair of U and V twice, with 8 levels of Y
    frame = Nv12Frame(y, uv, matrix, levels)
    got = fused(fit_of(y.shape, y.shape), frame)
    np.testing.assert_array_equal(got, nv12_reference(y, uv, YuvToBgr.of(frame)))
    host = np.abs(got.astype(int) - to_bgr(frame))
    opencv = np.abs(got.astype(int) - cv2.cvtColorTwoPlane(y, uv, cv2.COLOR_YUV2BGR_NV12))
    if (matrix, levels) == ("bt601", "limited"):
        assert max(host.max(), opencv.max()) <= 1
    else:
        assert host.max() == 0
        assert opencv.max() > 9


@pytest.mark.parametrize("rule", ["letterbox", "resize"])
def test_it_resizes_as_the_kernel_for_bgr_does(rule: str) -> None:
    for (size, network), colors in zip(product(SIZES, SIZES), COLORS * 7, strict=False):
        fit = fit_of(size, network, rule)
        frame: Any = Nv12Frame(*random_planes(size), *colors)  # type: ignore[arg-type]
        bgr = nv12_reference(frame.y, frame.uv, YuvToBgr.of(frame))
        got = fused(fit, frame)
        np.testing.assert_array_equal(got, forward(fit, bgr))
        assert np.abs(got.astype(int) - fit.apply(bgr)).max() <= 2


def test_rows_apart() -> None:
    for network in ((20, 16), (64, 96), (50, 40)):
        fit = fit_of((50, 40), network)
        frame = Nv12Frame(*random_planes((50, 40)))
        plain = fused(fit, frame)
        for slack in ((13, 0), (0, 24), (24, 24), (216, 3)):
            np.testing.assert_array_equal(fused(fit, frame, slack), plain)
