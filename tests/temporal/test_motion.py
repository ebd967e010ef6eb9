# SPDX-License-Identifier: Apache-2.0
"""The motion between two frames whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from imp_trt.temporal.motion import Motion, luma_of
from imp_trt.temporal.options import CUT_CHANGE
from tests.support.moving import texture

H, W = 64, 96
LEAST = {True: CUT_CHANGE["flow"], False: CUT_CHANGE["none"]}


def moved(dx: int, dy: int = 0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one texture: what is at (x, y) in the first is at (x + dx, y + dy) in the second."""
    large = texture(seed, (H + 40, W + 40))
    return large[20 : 20 + H, 20 : 20 + W].copy(), large[20 - dy : 20 - dy + H, 20 - dx : 20 - dx + W].copy()


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (-4, 2), (0, 6)])
def test_a_canvas_moves_with_the_picture(dx: int, dy: int) -> None:
    motion = Motion.between(*moved(dx, dy), flow=True)
    canvas = np.zeros((2, H, W), np.float32)
    canvas[1, 20:40, 30:60] = 0.8
    expected = np.zeros_like(canvas)
    expected[1, 20 + dy : 40 + dy, 30 + dx : 60 + dx] = 0.8
    after = motion.move_canvas(canvas)
    assert np.abs(after - expected).mean() < 0.01
    assert not after[0].any()
    assert canvas[1, 20, 30] == np.float32(0.8), "not changed"
    assert motion.change == 0


def test_what_enters_the_frame_has_an_empty_canvas() -> None:
    motion = Motion.between(*moved(6), flow=True)
    after = motion.move_canvas(np.ones((1, H, W), np.float32))
    assert after[0, 4:-4, 10:].min() > 0.95
    assert after[0, 4:-4, :4].max() < 0.2


def test_padding_of_the_canvas_stays_empty() -> None:
    motion = Motion.between(*moved(3), flow=True)
    canvas = np.zeros((1, H + 8, W + 16), np.float32)
    canvas[0, 20:40, 30:60] = 1
    after = motion.move_canvas(canvas)
    assert after.shape == canvas.shape
    assert not after[0, H:].any()
    assert abs(after.sum() - canvas.sum()) < 0.02 * canvas.sum()


def test_boxes_move_with_their_masks() -> None:
    motion = Motion.between(*moved(4, -3), flow=True)
    boxes = np.array([[40, 80, 120, 160], [200, 40, 201, 41]], np.float32)
    after = motion.move_boxes(boxes, np.ones((2, 4, 4), np.float32), 4.0)
    np.testing.assert_allclose(after, boxes + np.array([16, -12, 16, -12]), atol=1.5)
    assert boxes[0, 0] == 40, "not changed"


def test_boxes_grow_with_their_masks() -> None:
    before = texture(5, (H, W))
    scale = cv2.getRotationMatrix2D((48, 32), 0, 1.06)
    after = np.asarray(cv2.warpAffine(before, scale, (W, H), borderMode=cv2.BORDER_REFLECT))
    motion = Motion.between(before, after, flow=True)
    (box,) = motion.move_boxes(
        np.array([[28, 12, 68, 52]], np.float32) * 4, np.ones((1, 4, 4), np.float32), 4.0
    )
    np.testing.assert_allclose(box / 4, [48 - 21.2, 32 - 21.2, 48 + 21.2, 32 + 21.2], atol=0.7)


def test_boxes_that_are_not_finite_stay() -> None:
    motion = Motion.between(*moved(2), flow=True)
    boxes = np.array([[np.nan, 0, 10, 10], [0, 0, np.inf, 5]], np.float32)
    np.testing.assert_array_equal(motion.move_boxes(boxes, np.ones((2, 4, 4), np.float32), 4.0), boxes)


def test_without_flow_nothing_moves() -> None:
    motion = Motion.between(*moved(3), flow=False)
    canvas = np.ones((1, H, W), np.float32)
    assert motion.move_canvas(canvas) is canvas
    boxes = np.zeros((1, 4), np.float32)
    assert motion.move_boxes(boxes, np.ones((1, 4, 4), np.float32), 4.0) is boxes


@pytest.mark.parametrize("size", [(8, 12), (1, 3), (16, 24), (3, 200)])
def test_small_canvases(size: tuple[int, int]) -> None:
    luma = texture(3, (64, 256))[: size[0], : size[1]]
    motion = Motion.between(luma, luma, flow=True)
    canvas = np.full((1, *size), 0.5, np.float32)
    np.testing.assert_allclose(motion.move_canvas(canvas), canvas, atol=1e-3)
    assert motion.change == 0


class TestChange:
    """The measure by which cuts are found."""

    @pytest.mark.parametrize("flow", [True, False])
    @pytest.mark.parametrize("seed", range(4))
    def test_other_scenes_are_cuts(self, seed: int, flow: bool) -> None:
        assert Motion.between(texture(seed, (H, W)), texture(seed + 10, (H, W)), flow).change > LEAST[flow]

    def test_black_and_white(self) -> None:
        black, white, scene = np.zeros((H, W), np.uint8), np.full((H, W), 255, np.uint8), texture(1, (H, W))
        assert Motion.between(black, white, True).change == 0, "neither shows anything"
        assert Motion.between(white, scene, True).change > LEAST[True]
        assert Motion.between(black, scene, True).change > LEAST[True]
        assert Motion.between(scene, black, True).change > LEAST[True]
        assert Motion.between(black, black, True).change == 0

    def test_exposure_is_none(self) -> None:
        scene = texture(1, (H, W))
        assert Motion.between(scene // 2 + 20, scene // 2 + 70, True).change < LEAST[True]

    def test_noise_is_none(self) -> None:
        noise = np.random.default_rng(0).integers(0, 8, (2, H, W)).astype(np.uint8)
        assert Motion.between(noise[0], noise[1], True).change == 0

    @pytest.mark.parametrize("flow", [True, False])
    def test_motion_is_none(self, flow: bool) -> None:
        assert Motion.between(*moved(2, 1), flow).change < LEAST[flow]


def test_luma_of_both_orders() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(luma_of(image), luma_of(np.ascontiguousarray(image[..., ::-1]), "rgb"))
