# SPDX-License-Identifier: Apache-2.0
"""Image files of every kind against Pillow, in inference and datasets: equal, or with a warning."""

from __future__ import annotations

import os
import resource
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imp_trt.data import images
from imp_trt.data.headers import parse_header
from imp_trt.data.images import MAX_PIXELS, encode_image, read_image
from imp_trt.errors import DatasetError, ImpTrtError, OutputError, SourceError
from imp_trt.train.datasets.reading import read_label_map, read_photo
from tests.support import image_files
from tests.support.image_files import gray, rgb

_Reader = Callable[[Path], NDArray[np.uint8]]
READERS: list[_Reader] = [read_image, read_photo]
_EXACT, _LOSSY = 0.0, 4.0


@pytest.fixture(autouse=True)
def _fresh_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_warned", set())


def _saved(mode: str, **settings: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        Image.fromarray(rgb()).convert(mode).save(path, **settings)

    return save


def _palette(colors: int, **settings: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(rgb()).quantize(colors).save(path, **settings)


def _alpha(mode: str, **settings: Any) -> Callable[[Path], None]:
    """With transparency from clear to opaque."""

    def save(path: Path) -> None:
        ramp = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
        image = Image.fromarray(rgb()).convert("RGB" if mode == "RGBA" else "L")
        image.putalpha(Image.fromarray(ramp))
        image.save(path, **settings)

    return save


def _deep(channels: int) -> NDArray[np.uint16]:
    """The image in 16 bits: gray, or RGB and alpha."""
    image = gray() if channels == 1 else np.dstack([rgb(), np.full((*image_files.SIZE, 1), 77, np.uint8)])
    return (image if channels == 1 else image[..., :channels]).astype(np.uint16) * 257


FILES: dict[str, tuple[str, Callable[[Path], object], float]] = {
    "png": ("a.png", _saved("RGB"), _EXACT),
    "interlaced png": ("a.png", lambda path: image_files.png(path, rgb(), interlaced=True), _EXACT),
    "palette png": ("a.png", _palette(16), _EXACT),
    "palette png of 2 bits": ("a.png", _palette(4, bits=2), _EXACT),
    "palette png with a transparent color": ("a.png", _palette(16, transparency=0), _EXACT),
    "png with a transparent color": (
        "a.png",
        lambda path: image_files.png(path, rgb(), chunks=[(b"tRNS", bytes([0, 200, 0, 40, 0, 40]))]),
        _EXACT,
    ),
    "gray png of 1 bit": ("a.png", lambda path: image_files.png(path, gray() >> 7, 1), _EXACT),
    "gray png of 2 bits": ("a.png", lambda path: image_files.png(path, gray() >> 6, 2), _EXACT),
    "gray png of 4 bits": ("a.png", lambda path: image_files.png(path, gray() >> 4, 4), _EXACT),
    "gray png": ("a.png", _saved("L"), _EXACT),
    "gray png with alpha": ("a.png", _alpha("LA"), _EXACT),
    "png with alpha": ("a.png", _alpha("RGBA"), _EXACT),
    "jpeg": ("a.jpg", _saved("RGB", quality=95, subsampling=0), _LOSSY),
    "progressive jpeg": ("a.jpg", _saved("RGB", quality=95, progressive=True), _LOSSY),
    "gray jpeg": ("a.jpg", _saved("L", quality=95), _LOSSY),
    "cmyk jpeg": ("a.jpg", _saved("CMYK", quality=95), _LOSSY),
    "cmyk tiff": ("a.tif", _saved("CMYK"), _LOSSY),
    "tiff": ("a.tif", _saved("RGB"), _EXACT),
    "lzw tiff": ("a.tif", _saved("RGB", compression="tiff_lzw"), _EXACT),
    "ycbcr tiff": ("a.tif", _saved("YCbCr"), _LOSSY),
    "palette tiff": ("a.tif", _palette(16), _EXACT),
    "1-bit tiff": ("a.tif", _saved("1", compression="group4"), _EXACT),
    "gray tiff with alpha": ("a.tif", _alpha("LA"), _EXACT),
    "webp": ("a.webp", _saved("RGB", lossless=True), _EXACT),
    "lossy webp": ("a.webp", _saved("RGB", quality=95), _LOSSY),
    "webp with alpha": ("a.webp", _alpha("RGBA", lossless=True, exact=True), _EXACT),
    "ppm": ("a.ppm", _saved("RGB"), _EXACT),
    "pgm": ("a.pgm", _saved("L"), _EXACT),
    "bmp": ("a.bmp", _saved("RGB"), _EXACT),
    "bmp of 16 bits": ("a.bmp", lambda path: image_files.bmp(path, 16), _LOSSY),
    "bmp of 32 bits": ("a.bmp", lambda path: image_files.bmp(path, 32), _EXACT),
    "bmp from the top": ("a.bmp", lambda path: image_files.bmp(path, 24, top_down=True), _EXACT),
    "palette bmp": ("a.bmp", _palette(16), _EXACT),
    "1-bit bmp": ("a.bmp", _saved("1"), _EXACT),
    "sRGB profile": ("a.jpg", lambda path: _with_profile(path), _LOSSY),
}


def _with_profile(path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb()).save(path, quality=95, subsampling=0, icc_profile=profile)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "save", "tolerance"), FILES.values(), ids=FILES.keys())
def test_the_picture_is_that_of_pillow(
    tmp_path: Path,
    reader: _Reader,
    name: str,
    save: Callable[[Path], object],
    tolerance: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / name
    save(path)
    try:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))[..., ::-1]
    except OSError as error:  # before Pillow 13: the YCbCr TIFF that it wrote itself
        pytest.skip(f"Pillow {PIL.__version__} cannot read it: {error}")
    found = reader(path)
    assert (found.shape, found.dtype) == (expected.shape, np.uint8)
    assert np.abs(found.astype(int) - expected).mean() <= tolerance
    assert not caplog.records


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bits(tmp_path: Path, reader: _Reader, suffix: str, channels: int) -> None:
    path, deep = tmp_path / f"a{suffix}", _deep(channels)
    _ = image_files.png(path, deep, 16) if suffix == ".png" else image_files.tiff(path, deep)
    expected = np.dstack([gray()] * 3) if channels == 1 else rgb()[..., ::-1]
    assert np.array_equal(reader(path), expected)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("kind", ["separate planes", "separate planes and alpha", "white is 0"])
def test_tiffs_that_opencv_reads_wrongly_in_16_bits(
    tmp_path: Path, reader: _Reader, kind: str, deep: bool
) -> None:
    """Planes came out as black rows and noise, and white as black."""
    if kind == "white is 0":
        pixels, expected, settings = 255 - gray(), np.dstack([gray()] * 3), {"photometric": 0}
    else:
        pixels = rgb() if kind == "separate planes" else np.dstack([rgb(), np.full_like(gray(), 255)])
        expected, settings = rgb()[..., ::-1], {"planar": True}
    values = pixels.astype(np.uint16) * 257 if deep else pixels
    assert np.array_equal(reader(image_files.tiff(tmp_path / "a.tif", values, **settings)), expected)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("white", [100, 255, 1023, 4095, 65535])
def test_a_white_of_pnm_other_than_255(
    tmp_path: Path, reader: _Reader, white: int, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.round(rgb().astype(float) * white / 255)
    data = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n# a comment\n64 48\n%d\n" % white + data)
    assert np.abs(reader(path).astype(int) - rgb()[..., ::-1]).max() <= 2
    assert not caplog.records


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_the_file_has_are_reported_once(
    tmp_path: Path, reader: _Reader, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Raw values of a camera: right by the file's own rule, and almost black."""
    for name in ("a.png", "b.png"):
        reader(image_files.png(tmp_path / name, rgb().astype(np.uint16) << (bits - 8), 16))
    (record,) = caplog.records
    assert f"a.png leaves the upper {16 - bits} bits" in record.getMessage()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("suffix", "save"), [
    (".tif", lambda path: image_files.tiff(path, rgb(), pages=2)),
    (".webp", lambda path: _several(path, lossless=True)),
    (".png", lambda path: _several(path)),
])  # fmt: skip
def test_further_pages_are_reported(
    tmp_path: Path, reader: _Reader, suffix: str, save: Any, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"a{suffix}"
    save(path)
    try:
        found = reader(path)
    except ImpTrtError:  # OpenCV before 4.11 reads no animation
        assert suffix == ".webp"
        return
    assert np.array_equal(found, rgb()[..., ::-1])
    assert "only the first is read" in caplog.text


def _several(path: Path, **settings: Any) -> None:
    other = Image.fromarray(rgb()[::-1])
    Image.fromarray(rgb()).save(path, save_all=True, append_images=[other], **settings)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations(tmp_path: Path, reader: _Reader, suffix: str, orientation: int) -> None:
    path = image_files.with_orientation(tmp_path / f"a{suffix}", orientation)
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
    expected = np.asarray(turned.convert("RGB"))[..., ::-1]
    found = reader(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() <= (_LOSSY if suffix == ".jpg" else _EXACT)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_tiff_with_16_bits(tmp_path: Path, reader: _Reader, orientation: int) -> None:
    wide = reader(image_files.tiff(tmp_path / "a.tif", _deep(3), orientation=orientation))
    assert np.array_equal(wide, reader(image_files.tiff(tmp_path / "b.tif", rgb(), orientation=orientation)))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_labels_of_the_stored_pixels_are_known_by_their_size(
    tmp_path: Path, suffix: str, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = image_files.with_orientation(tmp_path / f"a{suffix}", orientation)
    stored = read_photo(path, image_files.SIZE)
    assert np.abs(stored.astype(int) - rgb()[..., ::-1]).mean() <= _LOSSY
    assert "used as stored" in caplog.text
    caplog.clear()
    assert read_photo(path, image_files.SIZE[::-1]).shape[:2] == image_files.SIZE[::-1]
    assert "assumed to belong to the rotated image" in caplog.text


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("what", "save"),
    [
        ("floating point", lambda path: image_files.tiff(path, rgb().astype(np.float32) / 255)),
        ("floating point", lambda path: image_files.tiff(path, gray().astype(np.float64))),
        ("signed integers", lambda path: image_files.tiff(path, gray().astype(np.int16) * 100)),
        ("signed integers", lambda path: image_files.tiff(path, gray().astype(np.int32))),
        ("L.a.b", lambda path: image_files.tiff(path, rgb(), photometric=8)),
        ("8 or 16 bits|invalid data", lambda path: image_files.tiff(path, gray().astype(np.uint32) << 24)),
        ("transparent pixels", lambda path: image_files.tiff(path, np.dstack([rgb(), gray()]), extra=2)),
        ("transparent pixels", lambda path: image_files.tiff(path, np.dstack([rgb(), gray()]), extra=1)),
        ("transparent pixels", lambda path: image_files.tiff(path, _deep(4), extra=1)),
    ],
)  # fmt: skip
def test_colors_that_cannot_be_converted_are_rejected(
    tmp_path: Path, reader: _Reader, what: str, save: Callable[[Path], object]
) -> None:
    save(tmp_path / "a.tif")
    with pytest.raises((SourceError, DatasetError), match=what):
        reader(tmp_path / "a.tif")


@pytest.mark.parametrize("reader", READERS)
def test_an_opaque_tiff_with_alpha(tmp_path: Path, reader: _Reader) -> None:
    opaque = np.dstack([rgb(), np.full((*image_files.SIZE, 1), 255, np.uint8)])
    for pixels in (opaque, opaque.astype(np.uint16) * 257):
        for extra in (0, 1, 2):
            path = image_files.tiff(tmp_path / "a.tif", pixels, extra=extra)
            assert np.array_equal(reader(path), rgb()[..., ::-1])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_that_is_not_in_the_colors_is_dropped(
    tmp_path: Path, reader: _Reader, dtype: type[np.generic]
) -> None:
    """Straight alpha, which PNG always has: the colors are those of an opaque image."""
    scale = 257 if dtype == np.uint16 else 1
    pixels = np.dstack([rgb(), np.zeros((*image_files.SIZE, 1), np.uint8)]).astype(dtype) * dtype(scale)
    assert np.array_equal(
        reader(image_files.png(tmp_path / "a.png", pixels, 8 * pixels.itemsize)), rgb()[..., ::-1]
    )
    two = np.dstack([gray(), np.zeros_like(gray())]).astype(dtype) * dtype(scale)
    found = reader(image_files.png(tmp_path / "b.png", two, 8 * two.itemsize))
    assert np.array_equal(found, np.dstack([gray()] * 3))
    if dtype == np.uint16:  # 8 bits are rejected: OpenCV multiplies them
        assert np.array_equal(reader(image_files.tiff(tmp_path / "c.tif", pixels, extra=2)), rgb()[..., ::-1])


_LABELS: list[_Reader] = [lambda path: read_label_map(path, np.uint8)]


@pytest.mark.parametrize("reader", [*READERS, *_LABELS])
def test_only_regular_files_are_opened(tmp_path: Path, reader: _Reader) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("fifo.png", "zero.png", "folder.png"):
        with pytest.raises((SourceError, DatasetError), match="regular file"):
            reader(tmp_path / name)


@pytest.mark.parametrize("reader", [*READERS, *_LABELS])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".webp", ".jpg"])
def test_the_size_is_checked_before_decoding(tmp_path: Path, reader: _Reader, suffix: str) -> None:
    """A small file whose header declares what would take gigabytes."""
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        image_files.png(path, np.zeros((20000, 20000), np.uint8)[:20])  # rows are missing; IEND is there
        image_files.png(path, np.zeros((20, 20), np.uint8), size=(20000, 20000))
    elif suffix == ".tif":
        image_files.tiff(path, gray())
        path.write_bytes(
            path.read_bytes().replace(b"\x04\0\x01\0\0\0\x40\0\0\0", b"\x04\0\x01\0\0\0\0\0\0\x40")
        )
    elif suffix == ".bmp":
        image_files.bmp(path, 24)
        path.write_bytes(path.read_bytes()[:18] + b"\x20\x4e\0\0" * 2 + path.read_bytes()[26:])
    elif suffix == ".ppm":
        path.write_bytes(b"P6 20000 20000 255\n" + bytes(100))
    elif suffix == ".webp":
        Image.fromarray(rgb()).save(path, lossless=True)
        data = path.read_bytes()
        path.write_bytes(data[:21] + (16383 << 14 | 16383).to_bytes(4, "little") + data[25:])
    else:
        Image.fromarray(rgb()).save(path)
        path.write_bytes(path.read_bytes().replace(b"\0\x30\0\x40\x03", b"\xff\0\xff\0\x03"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((SourceError, DatasetError), match=f"at most {MAX_PIXELS} pixels"):
        reader(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize(
    ("width", "message"),
    [([(256, 9, 30000)], "an image with a size, got 0x30000"), ([(256, 4, 8), (256, 4, 30000)], "tag 256")],
)
def test_tiff_sizes_that_decoders_read_otherwise_are_rejected(
    tmp_path: Path, width: list[tuple[int, int, int]], message: str
) -> None:
    """As a signed integer, and twice: libtiff reads 30000, and would allocate gigabytes."""
    entries = [*width, (257, 4, 30000), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, 30000)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4))
    with pytest.raises(SourceError, match=message):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp", ".ppm"])
def test_damaged_headers_raise_typed_errors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".bmp", ".ppm"):
        Image.fromarray(rgb()).save(path)
    else:
        image_files.with_orientation(path, 6)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data[: int(rng.integers(1, len(data) + 1))])
        for place in rng.integers(0, min(len(damaged), 200), 3):
            damaged[place] = int(rng.integers(0, 256))
        try:
            parse_header(bytes(damaged))
        except ValueError:
            continue


@pytest.mark.parametrize("kind", ["palette", "rgb", "16 bits", "4 bits", "gray with alpha", "jpeg", "turned"])
def test_label_maps_of_other_kinds_are_rejected(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "label.png"
    labels = (gray() // 64).astype(np.uint8)
    if kind == "palette":
        Image.fromarray(labels, "L").convert("P").save(path)
    elif kind == "rgb":
        image_files.png(path, rgb())
    elif kind == "16 bits":
        image_files.png(path, labels, 16)
    elif kind == "4 bits":
        image_files.png(path, labels, 4)
    elif kind == "gray with alpha":
        image_files.png(path, np.dstack([labels, labels]))
    elif kind == "jpeg":
        Image.fromarray(labels).save(path, format="JPEG")
    else:
        image = Image.fromarray(labels)
        exif = Image.Exif()
        exif[0x112] = 3
        image.save(path, exif=exif.tobytes())
    with pytest.raises(DatasetError, match="label map"):
        read_label_map(path, np.uint8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps_are_read_value_by_value(
    tmp_path: Path, interlaced: bool, dtype: type[np.uint8] | type[np.uint16]
) -> None:
    bits = 8 * np.dtype(dtype).itemsize
    labels = np.arange(37 * 91).reshape(37, 91).astype(dtype)
    path = image_files.png(tmp_path / "a.png", labels, bits, interlaced=interlaced)
    assert np.array_equal(read_label_map(path, dtype), labels)


def test_reading_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    Image.fromarray(rgb()).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        images.read_image_bytes(tmp_path / "a.png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("suffix", [".webp", ".jpg"])
def test_a_panorama_that_a_format_cannot_hold(suffix: str) -> None:
    panorama = np.zeros((2, 70_000, 3), np.uint8)
    with pytest.raises(OutputError, match=r"70000x2 as \.\w+: .*write \.png"):
        encode_image(panorama, suffix)
    assert np.array_equal(cv2.imdecode(np.frombuffer(encode_image(panorama, ".png"), np.uint8), 1), panorama)
