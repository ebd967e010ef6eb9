# SPDX-License-Identifier: Apache-2.0
"""Arrays of an untrusted .npz file: nothing is unpickled, and no more is decompressed than was expected."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.fields import EXPORT_AGAIN, short
from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.errors import ArtifactError

HEADER_BYTES = 1 << 12
"""Limit of the header of an array."""

ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    zlib.error,
)
"""What the library raises for a damaged archive."""


def read_arrays(
    data: bytes, specs: Mapping[str, TensorSpec], what: str, fix: str = EXPORT_AGAIN
) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, which must have exactly these names, types and shapes.

    Args:
        data: bytes of the file.
        specs: name in the file -> type and shape.
        what, fix: the file, and how to get a right one, for errors.

    Raises:
        ArtifactError: it is no such file, or has other arrays.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(info.filename for info in archive.infolist())
            if names != sorted(f"{name}.npy" for name in specs):
                found = [name.removesuffix(".npy") for name in names]
                raise malformed(what, f"the arrays {', '.join(specs)}", short(found), fix)
            return {
                n: read_array(archive, n, np.dtype(s.dtype), s.shape, what, fix, any_order=True)
                for n, s in specs.items()
            }
    except ZIP_ERRORS as error:
        raise malformed(what, "an .npz file of numpy.savez", short(error), fix) from error


def read_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    what: str,
    fix: str = EXPORT_AGAIN,
    any_order: bool = False,
) -> NDArray[Any]:
    """The array ``name`` of an archive, which must have this type and shape; in C order, read-only.

    Args:
        any_order: whether the file may hold it in Fortran order.

    Raises:
        ArtifactError: it has another type, shape or size; ``what`` names the file.
        ZIP_ERRORS: the archive is damaged.
    """
    expected = math.prod(shape) * dtype.itemsize
    # Neither the size in the archive's directory nor the shape in the array's header decides what is read.
    with archive.open(f"{name}.npy") as file:
        data = file.read(expected + HEADER_BYTES)
    stream = io.BytesIO(data)
    actual_shape, fortran, actual = array_header(stream)
    content = memoryview(data)[stream.tell() :]
    if (actual_shape, actual) != (shape, dtype) or len(content) != expected or (fortran and not any_order):
        order = "Fortran order, " if fortran else ""
        got = f"{actual}{list(actual_shape)}, {order}{len(content)} bytes"
        raise malformed(what, f"{name}: {dtype}{list(shape)}", got, fix)
    if not expected:  # not all versions of NumPy accept an empty buffer
        return np.empty(shape, dtype)
    values = np.frombuffer(content, dtype)
    return np.ascontiguousarray(values.reshape(shape[::-1]).T) if fortran else values.reshape(shape)


def array_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type in the header of a .npy file; the stream is left behind it."""
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=HEADER_BYTES)
    return tuple(shape), bool(fortran), dtype


def malformed(what: str, expected: str, got: str, fix: str = EXPORT_AGAIN) -> ArtifactError:
    """The error for a file with other arrays than expected."""
    return ArtifactError(what, expected=expected, got=got, fix=fix)
