# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels between a caller's frame and the network's, run on the host under sanitizers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.cuda.kernels import geometry
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.preprocessing.test_letterbox import reference
from tests.support import tiny
from tests.support.cuda_on_host.host_kernels import Long, Out
from tests.support.cuda_on_host.operators import garbage, kernels

SIZES = ((1, 1), (1, 37), (50, 40), (33, 90), (64, 96))


def grid_and_block(height: int, width: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    constants = geometry("frame_fit")
    block = (constants["IMP_FF_BLOCK_W"], constants["IMP_FF_BLOCK_H"], 1)
    return (-(-width // block[0]), -(-height // block[1]), 1), block


def forward(
    fit: LetterboxTransform, frame: NDArray[np.uint8], swap: bool = False, slack: int = 0
) -> NDArray[np.uint8]:
    """The frame at the network's size; `slack` bytes lie between the rows."""
    h, w = fit.frame
    pitch = 3 * w + slack
    rows = np.full((h, pitch), 255, np.uint8)
    rows[:, : 3 * w] = frame.reshape(h, 3 * w)
    memory = rows.reshape(-1)[: (h - 1) * pitch + 3 * w]  # nothing behind the last pixel
    out = Out(garbage((*fit.network, 3), np.uint8))
    sizes = [Long(pitch), *fit.frame, *fit.resized, *fit.network, int(swap), fit.pad_value]
    (result,) = kernels("frame_fit").run(
        "imp_frame_fit", *grid_and_block(*fit.network), [np.ascontiguousarray(memory), out, *sizes]
    )
    return result


def back(fit: LetterboxTransform, semantic: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = Out(garbage(fit.frame, np.uint8))
    sizes = [*fit.network, *fit.resized, *fit.frame]
    (result,) = kernels("frame_fit").run(
        "imp_semantic_back", *grid_and_block(*fit.frame), [semantic, out, *sizes]
    )
    return result


@pytest.mark.parametrize("rule", ["letterbox", "resize"])
def test_forward_is_the_rounded_reference(rule: str) -> None:
    for frame_size, network in product(SIZES, repeat=2):
        contract = InputContract(height=network[0], width=network[1], fit=rule, pad_value=7)
        fit = LetterboxTransform.of(frame_size, contract)
        frame = tiny.frame(*frame_size)
        got = forward(fit, frame).astype(np.float64)
        assert np.abs(got - reference(frame, fit)).max() <= 0.501, (frame_size, network)
        # OpenCV's fixed-point weights are up to a level off before rounding.
        assert np.abs(got - fit.apply(frame)).max() <= 2, (frame_size, network)


def test_noise_and_extreme_levels() -> None:
    rng = np.random.default_rng(0)
    for frame_size, network in (((97, 89), (31, 30)), ((31, 30), (97, 89)), ((40, 200), (80, 100))):
        fit = LetterboxTransform.of(
            frame_size, InputContract(height=network[0], width=network[1], fit="resize")
        )
        frame = rng.integers(0, 256, (*frame_size, 3), dtype=np.uint8)
        assert np.abs(forward(fit, frame) - reference(frame, fit)).max() <= 0.501
        white = np.full_like(frame, 255)
        assert (forward(fit, white) == 255).all()


def test_large_sides_do_not_overflow() -> None:
    for frame_size, network in (((1, 65536), (1, 40)), ((65536, 2), (40, 1)), ((2, 3), (2, 65536))):
        fit = LetterboxTransform.of(
            frame_size, InputContract(height=network[0], width=network[1], fit="resize")
        )
        frame = np.random.default_rng(0).integers(0, 256, (*frame_size, 3), dtype=np.uint8)
        assert np.abs(forward(fit, frame) - reference(frame, fit)).max() <= 0.501


def test_an_image_of_the_right_size_is_copied() -> None:
    frame = tiny.frame(50, 40)
    fit = LetterboxTransform.of((50, 40), InputContract(height=50, width=64))
    got = forward(fit, frame)
    np.testing.assert_array_equal(got[:, :40], frame)
    assert (got[:, 40:] == fit.pad_value).all()


def test_rows_apart_and_swapped_channels() -> None:
    fit = LetterboxTransform.of((50, 40), InputContract(height=64, width=96))
    frame = tiny.frame(50, 40)
    plain = forward(fit, frame)
    np.testing.assert_array_equal(forward(fit, frame, slack=13), plain)
    np.testing.assert_array_equal(forward(fit, frame, swap=True), plain[..., ::-1])
    np.testing.assert_array_equal(forward(fit, frame[..., ::-1], swap=True), plain)


@pytest.mark.parametrize("rule", ["letterbox", "resize"])
def test_semantic_back_is_that_of_the_host(rule: str) -> None:
    rng = np.random.default_rng(0)
    for frame_size, network in product(SIZES, repeat=2):
        fit = LetterboxTransform.of(frame_size, InputContract(height=network[0], width=network[1], fit=rule))
        semantic = rng.integers(0, 200, network, dtype=np.uint8)
        np.testing.assert_array_equal(back(fit, semantic), fit.invert_mask(semantic))
    fit = LetterboxTransform.of((3, 65536), InputContract(height=2, width=33, fit="resize"))
    semantic = rng.integers(0, 200, (2, 33), dtype=np.uint8)
    np.testing.assert_array_equal(back(fit, semantic), fit.invert_mask(semantic))
