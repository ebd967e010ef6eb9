# SPDX-License-Identifier: Apache-2.0
"""Golden frames of an artifact: inputs of the network and the trained network's outputs, in one small file.

``<artifact without its suffix>.golden.npz`` is written with the artifact, and its hash is in the manifest. A
device that has neither PyTorch nor the checkpoint verifies an engine with it, when the engine is built and
again when the device starts.

The file is untrusted input: nothing is unpickled, every array must have the type and shape that follow from
the manifest, and no more is decompressed than such an array has.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import AnyManifest, golden_path, own_golden_path
from imp_trt.artifacts.fields import EXPORT_AGAIN, short
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.npz import HEADER_BYTES, ZIP_ERRORS, array_header, malformed, read_array
from imp_trt.artifacts.reading import read_bounded
from imp_trt.artifacts.replacement import next_path
from imp_trt.errors import ArtifactError

MAX_FILE_BYTES = 8 << 20
"""Maximum size of the file."""

MAX_FRAMES = 8
"""Maximum number of frames in the file."""

_MAX_FRAME_BYTES = 1 << 26
_FRAMES, _SIZES = "frames", "sizes"
_WHAT = "golden frames"


@dataclass(frozen=True, eq=False)
class Golden:
    """Frames and answers.

    Attributes:
        frames: [F, H, W, 3] uint8 BGR, at the network's size.
        sizes: [F, 2] int32, (h, w) of the image in each frame, from the top left; the rest is padding, which
            is not compared.
        outputs: the network's outputs in float32 precision, name -> [F, ...]; see
            :meth:`imp_trt.backends.Backend.infer`. Masks of rows without a detection are 0.
    """

    frames: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    outputs: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.frames)


def pack_golden(golden: Golden) -> bytes:
    """Content of the file; the same arrays give the same bytes, apart from NumPy's and zlib's versions."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {_FRAMES: golden.frames, _SIZES: golden.sizes, **golden.outputs}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_golden(path: str | os.PathLike[str], manifest: AnyManifest, limit: int | None = None) -> bytes:
    """The bytes of an artifact's golden file, whose hash is the manifest's.

    Args:
        path: of the artifact.
        manifest: of the artifact.
        limit: maximum size of the file; None for MAX_FILE_BYTES.

    Raises:
        ArtifactError: the artifact was written without one, or the file is missing, too large or another one.
    """
    return find_golden(path, manifest, limit)[1]


def find_golden(
    path: str | os.PathLike[str], manifest: AnyManifest, limit: int | None = None
) -> tuple[Path, bytes]:
    """The path of an artifact's golden file, and its bytes; arguments, errors: see :func:`read_golden`."""
    if not manifest.golden_sha256:
        raise ArtifactError(
            f"artifact {path}",
            expected="golden frames and outputs, as imp-export writes them",
            got="a manifest without field 'golden_sha256'",
            fix=f"{EXPORT_AGAIN}, without --no-verify",
        )
    # The hidden ones exist while the artifact is replaced, or if that was interrupted.
    places = [final for path_of in (own_golden_path, golden_path) for final in _with_next(path_of(path))]
    present = [place for place in places if place.exists()] or [golden_path(path)]
    digest = ""
    for place in present:
        data = read_bounded(place, _WHAT, limit or MAX_FILE_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        if digest == manifest.golden_sha256:
            return place, data
    raise ArtifactError(
        f"golden frames {present[-1]} do not match the manifest of {path}: sha256",
        expected=manifest.golden_sha256,
        got=digest,
        fix=f"the file is damaged or was replaced; copy it again with the artifact, or {EXPORT_AGAIN}",
    )


def _with_next(final: Path) -> tuple[Path, Path]:
    return next_path(final), final


def unpack_golden(data: bytes, manifest: Manifest) -> Golden:
    """The content of a golden file.

    Args:
        data: bytes of the file.
        manifest: of its artifact.

    Raises:
        ArtifactError: it is not a zip file, or an array is missing, unknown, or of another type or shape than
            follows from the manifest.
    """
    specs = {_FRAMES: manifest.input.spec, **{spec.name: spec for spec in manifest.outputs}}
    shapes = {name: (np.dtype(spec.dtype), spec.shape[1:]) for name, spec in specs.items()}
    shapes[_SIZES] = (np.dtype(np.int32), (2,))
    largest = max(dtype.itemsize * math.prod(shape) for dtype, shape in shapes.values())
    if largest > _MAX_FRAME_BYTES:
        raise _malformed(f"arrays of at most {_MAX_FRAME_BYTES} bytes a frame", f"{largest} by the manifest")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = sorted(info.filename for info in archive.infolist())
            if names != sorted(f"{name}.npy" for name in shapes):
                raise _malformed(f"the arrays {', '.join(shapes)}", short(names))
            count = _count(archive)
            arrays = {
                n: read_array(archive, n, dtype, (count, *shape), _WHAT)
                for n, (dtype, shape) in shapes.items()
            }
    except ZIP_ERRORS as error:
        raise _malformed("a file made by imp-export", short(error)) from error
    sizes = arrays.pop(_SIZES)
    if (sizes < 1).any() or (sizes > np.array([manifest.input.height, manifest.input.width])).any():
        raise _malformed("sizes within the network's frame", short(sizes.tolist()))
    return Golden(arrays.pop(_FRAMES), sizes, arrays)


def _count(archive: zipfile.ZipFile) -> int:
    """Number of frames, from the header of one array; the other arrays must have the same."""
    with archive.open(f"{_SIZES}.npy") as file:
        shape, _, _ = array_header(io.BytesIO(file.read(HEADER_BYTES)))
    if not shape or not 1 <= shape[0] <= MAX_FRAMES:
        raise _malformed(f"1 to {MAX_FRAMES} frames", short(shape))
    return shape[0]


def _malformed(expected: str, got: str) -> ArtifactError:
    return malformed(_WHAT, expected, got)
