# SPDX-License-Identifier: Apache-2.0
"""An artifact: a file with a network and the manifest next to it; the names of all its files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from imp_trt.artifacts.manifest import Kind, Manifest
from imp_trt.artifacts.network_manifest import NetworkManifest

SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "engine": ".engine"}

# 2 GiB is the limit of protobuf, thus of an ONNX file in one piece. An engine is about as large as its ONNX
# file; it also contains kernels.
MAX_PAYLOAD_BYTES: dict[Kind, int] = {"onnx": 1 << 31, "engine": 1 << 32}


@dataclass(frozen=True)
class Artifact:
    """A verified file in memory.

    Attributes:
        path: where it was read from.
        payload: its bytes, whose hash was compared with the manifest's.
        manifest: its manifest.
        canvas: the bytes of its canvas part, whose hash was compared too; None if it has none or they were
            not requested.
    """

    path: Path
    payload: bytes
    manifest: Manifest
    canvas: bytes | None = None


@dataclass(frozen=True)
class NetworkArtifact:
    """A verified file with a third-party network; the fields are those of :class:`Artifact`."""

    path: Path
    payload: bytes
    manifest: NetworkManifest


AnyManifest = Manifest | NetworkManifest


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.json`` for an artifact file."""
    path = Path(path)
    return path.parent / f"{path.name}.json"  # with_name is an error for a path without a name


def canvas_path(path: str | os.PathLike[str]) -> Path:
    """``<file without its suffix>.canvas<suffix>`` for an artifact file: its canvas part, if it has one."""
    path = Path(path)
    return path.with_suffix(f".canvas{path.suffix}")


def golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file without its suffix>.golden.npz`` for an artifact file; see :mod:`imp_trt.artifacts.golden`."""
    return Path(path).with_suffix(".golden.npz")


def own_golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.golden.npz``, where the other name belongs to an artifact of the same stem, as in
    ``model.onnx`` and ``model.engine``.
    """
    path = Path(path)
    return path.with_name(path.name + ".golden.npz")
