# SPDX-License-Identifier: Apache-2.0
"""Compressed TIFF: complete files are accepted, damaged ones are not read as black rows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imp_trt.data import tiff
from imp_trt.data.images import read_image
from imp_trt.errors import DatasetError, SourceError
from imp_trt.train.datasets.reading import read_label_map
from tests.support.image_files import tiff_tiles

LZW, DEFLATE = "tiff_lzw", "tiff_adobe_deflate"


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """[h, w, 3] without a row of one color."""
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0) // 2 + 60


def write(path: Path, image: NDArray[np.uint8], compression: str, rows: int | None = None) -> None:
    """By Pillow, with strips of so many rows."""
    strips = {} if rows is None else {278: rows}
    Image.fromarray(image).save(path, compression=compression, tiffinfo=strips)


def damage(path: Path) -> str | None:
    data = path.read_bytes()
    return tiff.damage(data, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize("compression", [LZW, DEFLATE])
@pytest.mark.parametrize("rows", [None, 7, 64])
@pytest.mark.parametrize("size", [(1, 1), (9, 300), (130, 170), (64, 64)])
def test_complete_files_have_no_damage(
    tmp_path: Path, size: tuple[int, int], rows: int | None, compression: str
) -> None:
    path = tmp_path / "a.tif"
    black_below = picture(*size)
    black_below[size[0] // 2 :] = 0
    for image in (picture(*size), black_below, np.zeros_like(black_below), picture(*size)[..., 0]):
        write(path, image, compression, rows)
        assert damage(path) is None
        assert np.array_equal(
            read_image(path), image[..., ::-1] if image.ndim == 3 else np.dstack([image] * 3)
        )


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "I;16", "CMYK", "LAB"])
@pytest.mark.parametrize("compression", [LZW, DEFLATE])
def test_complete_files_of_other_modes(tmp_path: Path, mode: str, compression: str) -> None:
    path = tmp_path / "a.tif"
    image = np.zeros((40, 50, 3), np.uint8)  # the length of each block is checked
    if mode == "I;16":
        Image.fromarray(image[..., 0].astype(np.uint16)).save(path, compression=compression)
    else:
        Image.fromarray(image).convert("RGB" if mode == "LAB" else mode).save(path, compression=compression)
    assert damage(path) is None


@pytest.mark.parametrize("code", [5, 8, 32946])
def test_complete_files_of_opencv(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.tif"
    image = picture(90, 110)
    image[80:] = 9
    cv2.imwrite(str(path), image, [cv2.IMWRITE_TIFF_COMPRESSION, code])
    assert damage(path) is None
    assert np.array_equal(read_image(path), image)


@pytest.mark.parametrize("last", [0, 255])
def test_tiles(tmp_path: Path, last: int) -> None:
    """The tiles at the right and lower edge are larger than what the image has of them."""
    image = picture(70, 100)
    image[-10:] = last
    path = tmp_path / "a.tif"
    tiff_tiles(path, image, 32)
    assert np.array_equal(read_image(path), image[..., ::-1])
    data = bytearray(path.read_bytes())
    data[int.from_bytes(data[4:8], "little") - 1] ^= 1  # before the directory: the last tile's checksum
    path.write_bytes(data)
    with pytest.raises(SourceError, match="damaged Deflate data in block 11"):
        read_image(path)


@pytest.mark.slow
@pytest.mark.parametrize("compression", [LZW, DEFLATE])
@pytest.mark.parametrize("rows", [None, 16])
@pytest.mark.parametrize("orientation", [1, 6])
def test_damaged_files_are_not_read_as_black_rows(
    tmp_path: Path, compression: str, rows: int | None, orientation: int
) -> None:
    path = tmp_path / "a.tif"
    write(path, picture(120, 160), compression, rows)
    data = path.read_bytes()
    if orientation != 1:
        with Image.open(path) as image:
            image.save(path, compression=compression, tiffinfo={274: orientation, 278: rows or 120})
        data = path.read_bytes()
    rng = np.random.default_rng(1)
    rejected = 0
    for trial in range(60):
        damaged, place = bytearray(data), int(rng.integers(len(data) // 10, len(data) * 9 // 10))
        if trial % 3 == 0:
            damaged[place] ^= 1 << int(rng.integers(8))
        else:
            damaged[place : place + 40] = (b"\0" if trial % 3 == 1 else b"\xff") * 40
        path.write_bytes(damaged)
        try:
            result = read_image(path)
        except SourceError:
            rejected += 1
        else:
            for axis in (0, 1):
                lines = np.moveaxis(result, axis, 0).reshape(result.shape[axis], -1)
                assert lines.any(1).all()
    assert rejected > (0 if compression == LZW else 58)


def test_damaged_label_maps(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, picture(120, 160)[..., 0], DEFLATE)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(DatasetError, match="damaged Deflate data"):
        read_label_map(path, np.uint8)
