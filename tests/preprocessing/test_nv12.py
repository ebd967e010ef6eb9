# SPDX-License-Identifier: Apache-2.0
"""NV12 in host memory: its colors against OpenCV and the ITU's equations, its layouts, its rejections."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from imp_trt import Nv12Frame, Segmenter
from imp_trt.backends.opening import BackendName
from imp_trt.errors import InvalidInput
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.network import ImpNetwork
from imp_trt.models.presets import system
from imp_trt.preprocessing.frames import check_frame, to_bgr
from imp_trt.preprocessing.nv12 import YuvToBgr
from tests.support import tiny
from tests.support.nv12 import COLORS, every_color, exact_bgr, nv12_reference, random_planes
from tests.support.segmenters import same

Y, UV = random_planes((6, 8))
NEEDS_OPENVINO = pytest.mark.skipif(not find_spec("openvino"), reason="needs the package openvino")


def difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(a.astype(float) - b).max())


def test_the_default_is_the_conversion_of_opencv() -> None:
    y, uv = every_color()
    frame = to_bgr(Nv12Frame(y, uv))
    assert difference(frame, cv2.cvtColorTwoPlane(y, uv, cv2.COLOR_YUV2BGR_NV12)) <= 1
    assert difference(frame, cv2.cvtColor(packed(y, uv), cv2.COLOR_YUV2BGR_NV12)) <= 1


@pytest.mark.parametrize(("matrix", "levels"), COLORS)
def test_colors_are_those_of_the_standard(matrix: Any, levels: Any) -> None:
    y, uv = every_color()
    frame = Nv12Frame(y, uv, matrix, levels)
    bgr = to_bgr(frame)
    # OpenCV's three decimals are up to 0.2 levels off.
    assert difference(bgr, exact_bgr(y, uv, matrix, levels)) <= (0.7 if frame.matrix == "bt601" else 0.501)
    # The arithmetic of the kernel. OpenCV's conversion on another processor may round in another way.
    opencv = (matrix, levels) == ("bt601", "limited")
    assert difference(bgr, nv12_reference(y, uv, YuvToBgr.of(frame))) <= (1 if opencv else 0)


def test_gray_stays_gray_at_both_ends() -> None:
    neutral = np.full((1, 1, 2), 128, np.uint8)
    for matrix, levels in COLORS:
        black, white = (16, 235) if levels == "limited" else (0, 255)
        y = np.array([[black, white], [0, 255]], np.uint8)
        bgr = to_bgr(Nv12Frame(y, neutral, matrix, levels))  # type: ignore[arg-type]
        np.testing.assert_array_equal(bgr, np.array([[[0] * 3, [255] * 3], [[0] * 3, [255] * 3]]))


# ---- layouts ----


def packed(y: NDArray[np.uint8], uv: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([y, uv.reshape(len(uv), -1)])


def padded(plane: NDArray[np.uint8], pitch: int = 32) -> NDArray[np.uint8]:
    """The same plane with rows `pitch` bytes apart."""
    rows = np.full((len(plane), pitch), 77, np.uint8)
    width = plane[0].size
    rows[:, :width] = plane.reshape(len(plane), width)
    strides = (pitch, *plane.strides[1:])
    return np.lib.stride_tricks.as_strided(rows, plane.shape, strides)


@pytest.mark.parametrize("colors", COLORS)
@pytest.mark.parametrize(
    "planes",
    [
        (Y[..., None], UV),
        (Y, UV.reshape(3, 8)),
        (Y, UV.reshape(3, 8, 1)),
        (packed(Y, UV),),
        (packed(Y, UV)[..., None],),
        (padded(Y), padded(UV, 40)),
        (padded(packed(Y, UV)),),
        (torch.from_numpy(Y), torch.from_numpy(UV)),
        (torch.from_numpy(packed(Y, UV)),),
    ],
)
def test_every_layout_is_the_same_frame(planes: tuple[Any, ...], colors: tuple[Any, Any]) -> None:
    y, uv = (*planes, None)[:2]
    before = [np.asarray(plane).copy() for plane in planes]
    expected = to_bgr(Nv12Frame(Y, UV, *colors))
    pixels, order = check_frame(Nv12Frame(y, uv, *colors))
    assert order == "bgr"
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)
    for plane, copy in zip(planes, before, strict=True):
        np.testing.assert_array_equal(np.asarray(plane), copy)


@pytest.mark.parametrize("size", [(2, 2), (2, 300), (300, 2), (128, 6), (130, 6), (258, 4)])
def test_any_even_size(size: tuple[int, int]) -> None:
    y, uv = random_planes(size)
    frame = Nv12Frame(y, uv, "bt709", "full")
    np.testing.assert_array_equal(to_bgr(frame), nv12_reference(y, uv, YuvToBgr.of(frame)))
    np.testing.assert_array_equal(to_bgr(Nv12Frame(packed(y, uv), None, "bt709", "full")), to_bgr(frame))


def test_read_only_planes() -> None:
    y, uv = Y.copy(), UV.copy()
    y.setflags(write=False)
    uv.setflags(write=False)
    np.testing.assert_array_equal(to_bgr(Nv12Frame(y, uv)), to_bgr(Nv12Frame(Y, UV)))


def test_planes_of_a_decoder_are_read_through_dlpack() -> None:
    av = pytest.importorskip("av")
    frame = av.VideoFrame.from_ndarray(packed(Y, UV), format="nv12")
    if not hasattr(frame.planes[0], "__dlpack__"):
        pytest.skip(f"PyAV {av.__version__} has no DLPack")
    np.testing.assert_array_equal(to_bgr(Nv12Frame(*frame.planes)), to_bgr(Nv12Frame(Y, UV)))


# ---- rejections ----


@pytest.mark.parametrize(
    ("y", "uv", "words"),
    [
        (Y[:, :7], UV, r"even height and width.*6 x 7"),
        (Y[:5], UV, r"even height and width.*5 x 8"),
        (Y, UV[:2], r"UV plane.*\[3, 4, 2\].*2 rows of 8"),
        (Y, UV[:, :2], r"UV plane.*3 rows of 4"),
        (Y, Y, "UV plane"),
        (packed(Y, UV)[:8], None, r"h \* 3 / 2"),
        (packed(Y, UV)[:, :7], None, r"h \* 3 / 2"),
        (Y[0], UV, r"Y plane.*shape \[8\]"),
        (Y[None, None], UV, "Y plane.*shape"),
        (Y[:0], UV[:0], "Y plane.*shape"),
        (Y[:, ::2], UV, "Y plane.*strides"),
        (Y[:, ::-1], UV, "Y plane.*strides"),
        (Y[::-1], UV, "Y plane.*strides"),
        (Y, UV[..., ::-1], "UV plane.*strides"),
        (Y, UV.transpose(2, 0, 1), "UV plane.*strides"),
        (Y.astype(np.uint16), UV.astype(np.uint16), r"Y plane.*uint16.*8 bits"),
        (Y, UV.astype(np.int8), r"UV plane.*int8"),
        (Y.tolist(), UV, r"Y plane.*builtins\.list.*numpy\.asarray"),
        (Y, "uv", "UV plane"),
        (None, UV, "Y plane"),
    ],
)
def test_what_is_no_nv12_is_rejected(y: Any, uv: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_frame(Nv12Frame(y, uv))


def test_colors_that_are_not_known() -> None:
    with pytest.raises(InvalidInput, match=r"matrix.*bt601, bt709.*'bt2020'"):
        Nv12Frame(Y, UV, "bt2020")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"color_range.*limited, full.*'tv'"):
        Nv12Frame(Y, UV, color_range="tv")  # type: ignore[arg-type]


def test_an_order_of_channels_is_rejected() -> None:
    with pytest.raises(InvalidInput, match=r"color.*Nv12Frame states"):
        check_frame(Nv12Frame(Y, UV), "bgr")


def test_planes_without_their_type_are_reported_of_it() -> None:
    with pytest.raises(InvalidInput, match="Nv12Frame"):
        check_frame(packed(Y, UV))


# ---- through the segmenter ----


def artifact_of(folder: Path, backend: BackendName) -> Path:
    """A file for the backend, with batches of 2."""
    if backend != "pytorch":
        return tiny.artifact(folder, batch=2)
    torch.manual_seed(0)
    network = ImpNetwork(system("panoptic-fpn-imp", tiny.CLASSES, (64, 96)))
    save_checkpoint(folder / "tiny.safetensors", network, {"terms": None})
    return folder / "tiny.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        "onnxruntime",
        pytest.param("openvino", marks=NEEDS_OPENVINO),
        "pytorch",
    ],
)
def test_every_backend_on_the_cpu_takes_nv12(tmp_path: Path, backend: BackendName) -> None:
    planes = random_planes((80, 120))
    frame, bgr = Nv12Frame(*planes, matrix="bt709"), tiny.frame(80, 120)
    stream = [frame, bgr, Nv12Frame(packed(*planes), matrix="bt709")]
    with Segmenter(artifact_of(tmp_path, backend), backend, threads=1, device="cpu") as segmenter:
        plain = to_bgr(frame)
        wanted = segmenter.run_batch([plain, bgr, plain])
        assert same(segmenter.run(frame), segmenter.run(plain))
        assert same(segmenter.submit(frame).result(), segmenter.run(plain))
        for results in (segmenter.run_batch(stream), list(segmenter.stream(stream))):
            assert all(same(a, b) for a, b in zip(results, wanted, strict=True))
            assert results[0].size == (80, 120)
        np.testing.assert_array_equal(results[0].frame, plain)
        np.testing.assert_array_equal(results[0].plot(frame), results[0].plot(plain))
        with pytest.raises(InvalidInput, match="UV plane"):
            segmenter.run_batch([bgr, Nv12Frame(planes[0], planes[1][:9])])
