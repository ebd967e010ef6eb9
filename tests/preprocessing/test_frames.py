# SPDX-License-Identifier: Apache-2.0
"""What is a frame and what is not: every rejection names the conversion."""

from __future__ import annotations

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from imp_trt.errors import InvalidInput
from imp_trt.preprocessing import frames
from imp_trt.preprocessing.frames import check_frame, to_bgr
from tests.support import tiny

FRAME = tiny.frame(6, 8)


class FakeTensor:
    def detach(self) -> FakeTensor:
        return self


REJECTED = [
    (None, "cv2.imread returns None"),
    ("photo.jpg", "cv2.imread"),
    (Path("photo.jpg"), "cv2.imread"),
    (FRAME.tolist(), "numpy.asarray"),
    (FakeTensor(), r"tensor\.detach"),
    (FRAME[..., 0], "COLOR_GRAY2BGR"),
    (FRAME[..., :1], "COLOR_GRAY2BGR"),
    (np.dstack([FRAME, FRAME[..., :1]]), "COLOR_BGRA2BGR"),
    (FRAME.transpose(2, 0, 1), r"transpose\(1, 2, 0\)"),
    (FRAME[None], "run_batch"),
    (FRAME[0], r"run\(frame\) for one frame"),
    (FRAME[..., :2], "image"),
    (FRAME.astype(np.float32) / 255, r"\* 255"),
    (FRAME.astype(np.float64), r"\* 255"),
    (FRAME.astype(np.float16), r"\* 255"),
    (FRAME.astype(np.uint16), ">> 8"),
    (FRAME.astype(">u2"), ">> 8"),
    (FRAME.astype(np.int8), "clip"),
    (FRAME.astype(np.int64), "clip"),
    (FRAME > 5, r"astype\(numpy\.uint8\) \* 255"),
    (FRAME.astype(object), "clip"),
    (np.zeros((0, 8, 3), np.uint8), "cropped"),
    (np.zeros((6, 0, 3), np.uint8), "cropped"),
    (np.uint8(3), None),
    (np.zeros((), np.uint8), "image"),
    (np.ma.masked_equal(FRAME, int(FRAME[0, 0, 0])), r"frame\.filled\(0\)"),
    (Image.fromarray(FRAME[..., 0]), r"convert\('RGB'\)"),
    (Image.fromarray(np.dstack([FRAME, FRAME[..., :1]])), r"convert\('RGB'\)"),
    (Image.fromarray(FRAME).convert("P"), r"convert\('RGB'\)"),
]


@pytest.mark.parametrize(("frame", "fix"), REJECTED)
def test_other_objects_are_rejected_with_a_fix(frame: object, fix: str | None) -> None:
    with pytest.raises(InvalidInput, match=fix) as caught:
        check_frame(frame)
    assert "expected" in str(caught.value)
    assert "got" in str(caught.value)


@pytest.mark.parametrize("kind", ["I;16", "I", "F", "L", "RGBA", "CMYK"])
def test_the_fix_for_a_pil_image_of_another_mode_keeps_its_levels(kind: str) -> None:
    gray = FRAME[..., 0]
    image = {
        "I;16": lambda: Image.fromarray(gray.astype(np.uint16) * 257),
        "I": lambda: Image.fromarray(gray.astype(np.int32) * 257),
        "F": lambda: Image.fromarray(gray.astype(np.float32) / 255),
    }.get(kind, lambda: Image.fromarray(gray).convert("RGB").convert(kind))()
    assert image.mode == kind
    with pytest.raises(InvalidInput) as caught:
        check_frame(image)
    expression = str(caught.value.fix).split(" if ")[0].split(" for ")[0]
    fixed, _ = check_frame(eval(expression, {"image": image, "numpy": np, "Image": Image}))  # noqa: S307
    assert np.abs(fixed.astype(int) - gray[..., None]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_a_pil_image_that_cannot_be_decoded_is_rejected(kind: str) -> None:
    whole = io.BytesIO()
    Image.fromarray(tiny.frame()).save(whole, kind)
    cut = Image.open(io.BytesIO(whole.getvalue()[: len(whole.getvalue()) // 2])) if kind != "WEBP" else None
    closed = Image.open(whole)
    closed.close()
    for image in (cut, closed):
        if image is not None:  # Pillow does not open a WebP that is cut short
            with pytest.raises(InvalidInput, match="complete image"):
                check_frame(image)


def _read_only() -> np.ndarray:
    frame = FRAME.copy()
    frame.flags.writeable = False
    return frame


ACCEPTED = {
    "plain": FRAME,
    "fortran": np.asfortranarray(FRAME),
    "mirrored": FRAME[:, ::-1],
    "upside down": FRAME[::-1],
    "channels reversed": FRAME[..., ::-1],
    "crop": tiny.frame(20, 20)[3:9, 5:13],
    "every second": tiny.frame(20, 20)[::2, ::3],
    "transposed": tiny.frame(8, 6).transpose(1, 0, 2),
    "read only": _read_only(),
    "broadcast": np.broadcast_to(FRAME[:1], FRAME.shape),
    "one pixel": FRAME[:1, :1],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_any_strides_are_accepted_and_unchanged(name: str) -> None:
    frame = ACCEPTED[name]
    before = frame.copy()
    pixels, order = check_frame(frame)
    assert order == "bgr"
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, before)
    assert np.array_equal(frame, before)


def test_contiguous_frames_are_not_copied() -> None:
    assert check_frame(FRAME)[0] is FRAME


def test_pil_is_rgb_and_arrays_are_bgr_by_default() -> None:
    image = Image.fromarray(FRAME)
    assert check_frame(image)[1] == "rgb"
    assert np.array_equal(to_bgr(image), FRAME[..., ::-1])
    assert np.array_equal(to_bgr(FRAME, "rgb"), FRAME[..., ::-1])
    assert np.array_equal(to_bgr(image, "bgr"), FRAME)
    with pytest.raises(InvalidInput, match="color"):
        check_frame(FRAME, "hsv")


def test_an_orientation_that_is_not_applied_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same file is turned by imp-segment and by read_image."""
    image = Image.fromarray(FRAME)
    exif = image.getexif()
    exif[0x112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    frames._warned.clear()
    for _ in range(3):
        with Image.open(tmp_path / "turned.png") as opened:
            assert check_frame(opened)[0].shape == FRAME.shape
    assert [record.getMessage().count("exif_transpose") for record in caplog.records] == [1]
    with Image.open(tmp_path / "turned.png") as opened:
        caplog.clear()
        frames._warned.clear()
        assert check_frame(ImageOps.exif_transpose(opened))[0].shape == (8, 6, 3)
    assert not caplog.records


def test_an_array_whose_mask_hides_nothing_is_a_frame() -> None:
    assert np.array_equal(check_frame(np.ma.masked_array(FRAME, np.zeros(FRAME.shape, bool)))[0], FRAME)


def test_a_list_of_frames_names_run_batch() -> None:
    with pytest.raises(InvalidInput, match=r"run_batch\(frames\)"):
        check_frame([FRAME, FRAME])


def test_tensors_on_the_cpu_are_read_in_place() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    tensor = torch.from_numpy(FRAME.copy()).requires_grad_(False)
    pixels, order = check_frame(tensor)
    assert order == "bgr"
    assert np.array_equal(pixels, FRAME)
    assert np.shares_memory(pixels, tensor.numpy())
    assert np.array_equal(to_bgr(tensor, "rgb"), FRAME[..., ::-1])
    planar = tensor.permute(2, 0, 1).contiguous()
    assert np.array_equal(check_frame(planar.permute(1, 2, 0))[0], FRAME), "any strides"


def _conversion(error: InvalidInput) -> str:
    """The expression in the fix of an error, without the condition after it."""
    return re.split(r" for values| if it uses|; ", str(error.fix))[0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint16", "int64", "bool"])
@pytest.mark.parametrize("shape", [(6, 8, 3), (3, 6, 8), (6, 8), (6, 8, 1), (6, 8, 4)])
def test_the_conversion_of_an_array_works(dtype: str, shape: tuple[int, ...]) -> None:
    frame = np.ones(shape, dtype)
    while True:
        try:
            pixels, _ = check_frame(frame)
        except InvalidInput as error:
            frame = eval(_conversion(error), {"frame": frame, "numpy": np, "cv2": cv2})  # noqa: S307
        else:
            assert pixels.shape == (6, 8, 3)
            return


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "uint16", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(6, 8, 3), (3, 6, 8), (6, 8), (6, 8, 1), (6, 8, 4)])
def test_the_conversion_of_a_tensor_works(dtype: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    tensor = torch.ones(shape, dtype=getattr(torch, dtype))
    while True:
        try:
            pixels, _ = check_frame(tensor)
        except InvalidInput as error:
            tensor = eval(_conversion(error), {"tensor": tensor, "torch": torch})  # noqa: S307
        else:
            assert pixels.shape == (6, 8, 3)
            assert pixels.max() == {"uint16": 0, "int64": 1, "uint8": 1}.get(dtype, 255)
            return


def test_sparse_and_quantized_tensors_are_named() -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    with pytest.raises(InvalidInput, match=r"got sparse_coo float32.*tensor\.to_dense\(\)"):
        check_frame(torch.zeros((4, 4, 3)).to_sparse())
