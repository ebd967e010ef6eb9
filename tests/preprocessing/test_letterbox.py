# SPDX-License-Identifier: Apache-2.0
"""The geometry rule against float64 NumPy, written from the rule and not from the code."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.errors import InvalidInput
from imp_trt.preprocessing.letterbox import LetterboxTransform
from tests.support import tiny

SIDES = st.integers(1, 90)


def weights(source: int, target: int, area: bool) -> NDArray[np.float64]:
    """[target, source]: what each output pixel of one axis takes from the input pixels."""
    step = source / target
    if area:
        low, pixel = np.arange(target)[:, None] * step, np.arange(source)[None, :]
        covered = np.minimum(low + step, pixel + 1) - np.maximum(low, pixel)
        return np.clip(covered, 0, None) / step
    matrix = np.zeros((target, source))
    center = np.clip((np.arange(target) + 0.5) * step - 0.5, 0, source - 1)
    first = center.astype(int)
    rows = np.arange(target)
    np.add.at(matrix, (rows, first), 1 - (center - first))
    np.add.at(matrix, (rows, np.minimum(first + 1, source - 1)), center - first)
    return matrix


def reference(frame: NDArray[np.uint8], transform: LetterboxTransform) -> NDArray[np.float64]:
    (h, w), (rh, rw) = transform.frame, transform.resized
    area = rh <= h and rw <= w
    rows, columns = weights(h, rh, area), weights(w, rw, area)
    image = np.einsum("yh,hwc,xw->yxc", rows, frame.astype(np.float64), columns, optimize=True)
    out = np.full((*transform.network, 3), float(transform.pad_value))
    out[:rh, :rw] = image
    return out


def test_padding_is_what_holds_no_image() -> None:
    contract = InputContract(height=384, width=480)
    assert LetterboxTransform.of((360, 480), contract).padding == pytest.approx(24 / 384)
    assert LetterboxTransform.of((768, 960), contract).padding == 0
    assert LetterboxTransform.of((10, 480), replace(contract, fit="resize")).padding == 0


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["letterbox", "resize"]))
def test_forward_is_within_rounding_of_the_reference(
    h: int, w: int, height: int, width: int, fit_rule: str
) -> None:
    transform = LetterboxTransform.of(
        (h, w), InputContract(height=height, width=width, fit=fit_rule, pad_value=7)
    )
    frame = tiny.frame(h, w)
    # OpenCV's fixed-point bilinear weights have 11 bits: up to 1 level off before rounding.
    assert np.abs(transform.apply(frame) - reference(frame, transform)).max() <= 1.51


@pytest.mark.parametrize(
    ("frame", "network", "resized"),
    [
        ((720, 1280), (512, 1024), (512, 910)),
        ((1080, 1920), (512, 1024), (512, 910)),
        ((360, 480), (384, 480), (360, 480)),
        ((100, 400), (64, 96), (24, 96)),
        ((1, 1), (64, 96), (64, 64)),
        ((1, 10_000), (64, 96), (1, 96)),  # never less than a pixel
        ((64, 96), (64, 96), (64, 96)),
        ((3, 2), (5, 7), (5, 3)),  # 10 / 3 rounds to 3
        ((2, 4), (7, 5), (3, 5)),  # 2.5 rounds up
    ],
)
def test_letterbox_sizes(frame: tuple[int, int], network: tuple[int, int], resized: tuple[int, int]) -> None:
    assert LetterboxTransform.of(frame, InputContract(height=network[0], width=network[1])).resized == resized


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["letterbox", "resize"]))
def test_semantic_back_takes_the_pixel_under_the_center(
    h: int, w: int, height: int, width: int, fit_rule: str
) -> None:
    transform = LetterboxTransform.of((h, w), InputContract(height=height, width=width, fit=fit_rule))
    semantic = np.random.default_rng(0).integers(0, 200, (height, width), dtype=np.uint8)
    back = transform.invert_mask(semantic)
    rh, rw = transform.resized
    y, x = h - 1, w // 2
    # Exact rational arithmetic: floor((x + 1/2) * rw / w).
    assert back[y, x] == semantic[(2 * y + 1) * rh // (2 * h), (2 * x + 1) * rw // (2 * w)]
    assert back.shape == (h, w)
    assert not (set(np.unique(back)) - set(np.unique(semantic[:rh, :rw])))  # nothing from the padding


def test_identity_passes_through() -> None:
    transform = LetterboxTransform.of((64, 96), InputContract(height=64, width=96))
    frame = tiny.frame()
    assert transform.apply(frame) is frame
    out = np.zeros_like(frame)
    assert transform.apply(frame, out) is out
    assert np.array_equal(out, frame)
    semantic = tiny.truth(frame)
    assert transform.invert_mask(semantic) is semantic


def test_out_is_written_in_place_and_the_frame_is_not() -> None:
    transform = LetterboxTransform.of((50, 40), InputContract(height=64, width=96))
    frame = tiny.frame(50, 40)
    frame.flags.writeable = False
    out = np.full((2, 64, 96, 3), 9, np.uint8)
    assert np.shares_memory(transform.apply(frame, out[1]), out)
    assert np.array_equal(out[1], transform.apply(frame))
    assert (out[0] == 9).all()
    assert (out[1, :, transform.resized[1] :] == 114).all()


def test_boxes_go_back_to_where_they_came_from() -> None:
    for rule in ("letterbox", "resize"):
        transform = LetterboxTransform.of((200, 300), InputContract(height=64, width=96, fit=rule))
        boxes = np.array([[30, 20, 150.5, 90], [0, 0, 300, 200]], np.float32)
        scale = np.array([transform.resized[1] / 300, transform.resized[0] / 200] * 2)
        inside = (boxes * scale).astype(np.float32)
        back = transform.invert_boxes(inside)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, boxes, rtol=1e-6, atol=1e-4)


def test_a_box_drawn_on_the_frame_is_found_there_again() -> None:
    frame = np.zeros((300, 500, 3), np.uint8)
    cv2.rectangle(frame, (100, 60), (299, 179), (255, 255, 255), -1)
    transform = LetterboxTransform.of((300, 500), InputContract(height=96, width=128))
    small = transform.apply(frame)
    ys, xs = np.nonzero(small[..., 0] > 127)
    keep = (ys < transform.resized[0]) & (xs < transform.resized[1])
    ys, xs = ys[keep], xs[keep]
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    # One network pixel is about four frame pixels.
    np.testing.assert_allclose(transform.invert_boxes(box)[0], [100, 60, 300, 180], atol=4)


def test_wrong_sizes_are_rejected() -> None:
    transform = LetterboxTransform.of((50, 40), InputContract(height=64, width=96))
    with pytest.raises(InvalidInput, match="frame"):
        transform.apply(tiny.frame(40, 50))
    with pytest.raises(InvalidInput, match="class map"):
        transform.invert_mask(np.zeros((50, 40), np.uint8))
    with pytest.raises(InvalidInput, match="at least 1"):
        LetterboxTransform.of((0, 5), InputContract(height=64, width=96))


def test_the_former_names_work_and_warn() -> None:
    import imp_trt.preprocessing

    with pytest.warns(DeprecationWarning, match=r"Fit is deprecated, use .*LetterboxTransform"):
        former = imp_trt.preprocessing.Fit
    assert former is LetterboxTransform
    transform = LetterboxTransform.of((50, 40), InputContract(height=64, width=96))
    frame, semantic = tiny.frame(50, 40), np.zeros((64, 96), np.uint8)
    boxes = np.float32([[1, 2, 3, 4]])
    for name, new, argument in (
        ("forward", "apply", frame),
        ("semantic_back", "invert_mask", semantic),
        ("boxes_back", "invert_boxes", boxes),
    ):
        with pytest.warns(DeprecationWarning, match=f"{name} is deprecated, use .*{new}") as record:
            result = getattr(transform, name)(argument)
        assert record[0].filename == __file__
        np.testing.assert_array_equal(result, getattr(transform, new)(argument))


def test_the_padding_is_that_of_the_contract() -> None:
    contract = InputContract(height=64, width=64, pad_value=7)
    fitted = LetterboxTransform.of((32, 64), contract).apply(np.full((32, 64, 3), 200, np.uint8))
    assert (fitted[32:] == 7).all()
    assert (fitted[:32] == 200).all()


def test_another_dtype_is_rejected() -> None:
    transform = LetterboxTransform.of((32, 64), InputContract(height=64, width=64))
    with pytest.raises(InvalidInput, match="float32"):
        transform.apply(np.zeros((32, 64, 3), np.float32))  # type: ignore[arg-type]


def test_boxes_go_back_on_each_axis() -> None:
    contract = InputContract(height=50, width=200, fit="resize")
    boxes = np.array([[10, 10, 20, 40]], np.float32)
    back = LetterboxTransform.of((100, 100), contract).invert_boxes(boxes)
    np.testing.assert_array_equal(back, [[5, 20, 10, 80]])
