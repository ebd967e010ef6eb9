# SPDX-License-Identifier: Apache-2.0
"""What is a frame and what is not: every rejection names the conversion."""

from __future__ import annotations

import io
from pathlib import Path

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
    with pytest.raises(InvalidInput, match=r"transpose\(1, 2, 0\)"):
        check_frame(planar)
    assert np.array_equal(check_frame(planar.permute(1, 2, 0))[0], FRAME), "any strides"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("planar", [True, False])
def test_the_fixes_for_tensors_work(dtype: str, planar: bool) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    tensor = torch.from_numpy(FRAME.copy())
    tensor = tensor / 255 if "float" in dtype else tensor
    tensor = (tensor.permute(2, 0, 1) if planar else tensor).to(getattr(torch, dtype))
    for _ in range(2):
        try:
            check_frame(tensor)
        except InvalidInput as error:
            fix = str(error.fix).split(" for ")[0]
            names = {"frame": tensor, "tensor": tensor, "numpy": np, "torch": torch}
            tensor = eval(fix, names)  # noqa: S307
    pixels, _ = check_frame(tensor)
    assert np.abs(pixels.astype(int) - FRAME).max() <= (1 if dtype == "bfloat16" else 0)


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [("float32", r"\* 255"), ("bfloat16", "torch.uint8"), ("int64", "clip"), ("bool", "255")],
)
def test_tensors_of_other_types_are_rejected(dtype: str, fix: str) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    with pytest.raises(InvalidInput, match=fix):
        check_frame(torch.zeros((4, 4, 3), dtype=getattr(torch, dtype)))
    with pytest.raises(InvalidInput, match=r"tensor\.to\(torch\.uint8\)"):
        check_frame(torch.zeros((4, 4, 3)).to_sparse())
