# SPDX-License-Identifier: Apache-2.0
"""Parts of image files that decoders take for something else: EXIF blocks, masks, bands, animations."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imp_trt.data import images
from imp_trt.data.images import read_image
from imp_trt.errors import DatasetError, SourceError
from imp_trt.train.datasets.reading import read_color_label, read_label_map, read_photo
from tests.support import image_files
from tests.support.image_files import gray, rgb

_Reader = Callable[[Path], NDArray[np.uint8]]
_READERS: list[_Reader] = [read_image, read_photo]


@pytest.fixture(autouse=True)
def _fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


def _exif(orientation: int) -> bytes:
    """An APP1 segment of JPEG."""
    content = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, orientation, 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize(
    ("first", "late"), [((6, 1), ()), ((1, 6), ()), ((3, 8), ()), ((), (6,)), ((8,), (3,))]
)
def test_where_exif_is_in_a_jpeg(
    tmp_path: Path, reader: _Reader, first: tuple[int, ...], late: tuple[int, ...]
) -> None:
    """Two blocks, as some editors leave them, and blocks behind the frame header."""
    file = io.BytesIO()
    Image.fromarray(rgb()).save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    scan = data.index(b"\xff\xda")
    data = data[:2] + b"".join(map(_exif, first)) + data[2:scan] + b"".join(map(_exif, late)) + data[scan:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))[..., ::-1]
    found = reader(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_bands_that_a_tiff_does_not_call_rgb(
    tmp_path: Path, reader: _Reader, photometric: int, planar: bool, dtype: type[np.generic]
) -> None:
    """As GDAL writes 16 bits by default: OpenCV reads the first band as gray."""
    path = image_files.tiff(tmp_path / "a.tif", rgb().astype(dtype), photometric=photometric, planar=planar)
    with pytest.raises((SourceError, DatasetError), match="3 bands of gray levels"):
        reader(path)
    pair = np.dstack([gray(), np.full_like(gray(), 255)])  # gray and alpha
    assert reader(image_files.tiff(tmp_path / "b.tif", pair, photometric=1, extra=2)).shape == (48, 64, 3)


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("length", [40, 52, 56, 108, 124])
@pytest.mark.parametrize(
    "masks", [(0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000), (0xFF << 24, 0xFF << 16, 0xFF00)]
)
def test_bit_fields_of_bmp(tmp_path: Path, reader: _Reader, length: int, masks: tuple[int, int, int]) -> None:
    """OpenCV honors them from a header of 56 bytes on."""
    height, width = image_files.SIZE
    values = np.zeros((height, width), "<u4")
    for channel, mask in enumerate(masks):
        values |= rgb()[..., channel].astype("<u4") * np.uint32(mask // 255)
    head = struct.pack("<IiiHHIIiiII", length, width, -height, 1, 32, 3, values.nbytes, 0, 0, 0, 0)
    head = (head + struct.pack("<4I", *masks, 0)).ljust(length, b"\0")[: max(length, 52)]
    start = 14 + len(head)
    path = tmp_path / "a.bmp"
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", start + values.nbytes, 0, 0, start) + head + values.tobytes()
    )
    if length < 56 and masks[0] != 0xFF0000:
        with pytest.raises((SourceError, DatasetError), match="bit fields"):
            reader(path)
    else:
        assert np.array_equal(reader(path), rgb()[..., ::-1])


@pytest.mark.parametrize("kind", ["P4", "P5", "P6"])
@pytest.mark.parametrize("count", [1, 2])
def test_several_images_in_a_pnm(
    tmp_path: Path, kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    mode = {"P4": "1", "P5": "L", "P6": "RGB"}[kind]
    image = Image.fromarray(rgb()).convert(mode)
    file = io.BytesIO()
    for _ in range(count):
        image.save(file, "PPM")
    path = tmp_path / "a.ppm"
    path.write_bytes(file.getvalue())
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB"))[..., ::-1])
    assert ("only the first is read" in caplog.text) == (count > 1)


@pytest.mark.parametrize("default", [False, True])
def test_the_image_of_an_animated_png_is_what_other_decoders_show(
    tmp_path: Path, default: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It need not be a frame of the animation, whose first one OpenCV 5 reads."""

    def save(path: Path, image: Image.Image, other: Image.Image) -> Path:
        settings = {"save_all": True, "append_images": [other, image], "default_image": default}
        image.save(path, **settings)
        return path

    colors = Image.fromarray(rgb())
    path = save(tmp_path / "a.png", colors, Image.fromarray(rgb()[::-1].copy()))
    for reader in (*_READERS, read_color_label):
        assert np.array_equal(reader(path), rgb()[..., ::-1])
    labels = gray() // 64
    (tmp_path / "labels").mkdir()
    path = save(tmp_path / "labels/a.png", Image.fromarray(labels), Image.fromarray(3 - labels))
    assert np.array_equal(read_label_map(path, np.uint8), labels)
    assert caplog.text.count("only the first is read") == 2  # once for each folder


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def _raw_profile(orientation: int) -> bytes:
    exif = _exif(orientation)[4:]
    return b"\nexif\n%8d\n" % len(exif) + exif.hex().encode() + b"\n"


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["xmp png", "text png", "compressed png", "xmp jpeg", "xmp webp"])
def test_orientations_that_are_not_in_exif_are_named(
    tmp_path: Path, reader: _Reader, orientation: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pillow applies them, browsers do not. ImageMagick wrote EXIF to PNG as text before it had a chunk."""
    path = tmp_path / f"a.{kind.split()[1]}"
    chunk = {
        "xmp png": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % orientation),
        "text png": (b"tEXt", b"Raw profile type exif\0" + _raw_profile(orientation)),
        "compressed png": (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(_raw_profile(orientation))),
    }.get(kind)
    if chunk:
        image_files.png(path, rgb(), chunks=[chunk])
    else:
        Image.fromarray(rgb()).save(path, xmp=XMP % orientation, lossless=True, quality=95)
    found = reader(path)
    assert np.abs(found.astype(int) - rgb()[..., ::-1]).mean() < 4
    assert ("has orientation 6 in metadata other than EXIF" in caplog.text) == (orientation == 6)


def test_an_orientation_in_exif_and_xmp_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(rgb()).save(tmp_path / "a.jpg", exif=exif.tobytes(), xmp=XMP % 6)
    assert read_image(tmp_path / "a.jpg").shape[:2] == image_files.SIZE[::-1]
    assert not caplog.records
