# SPDX-License-Identifier: Apache-2.0
"""Reads an artifact: all of its files, checked against its manifest."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from imp_trt.artifacts.artifact import (
    MAX_PAYLOAD_BYTES,
    SUFFIXES,
    AnyManifest,
    Artifact,
    NetworkArtifact,
    canvas_path,
    manifest_path,
)
from imp_trt.artifacts.fields import EXPORT_AGAIN
from imp_trt.artifacts.json_object import MAX_MANIFEST_BYTES, read_object
from imp_trt.artifacts.manifest import CONTRACT_FIELD, Manifest, parse_manifest
from imp_trt.artifacts.network_manifest import NetworkManifest, parse_network_manifest
from imp_trt.artifacts.replacement import file_state, next_path
from imp_trt.data.files import open_regular, read_regular
from imp_trt.data.memory import MEMORY_FIX
from imp_trt.errors import ArtifactError

_READ_ATTEMPTS = 50
"""How often a reader starts again because a file was replaced meanwhile."""

_M = TypeVar("_M", Manifest, NetworkManifest, AnyManifest)
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Pair(Generic[_M]):
    payload: bytes
    manifest: _M


_Parse = Callable[[bytes, Path], _M]
"""From the bytes of a manifest; the path is for errors."""


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact file. The file itself is only read if its replacement was interrupted.

    Raises:
        ArtifactError: the manifest is missing, unreadable, malformed or has another schema.
    """
    return _read_manifest(Path(path), parse_manifest)


def read_network_manifest(path: str | os.PathLike[str]) -> NetworkManifest:
    """:func:`read_manifest` for a third-party network."""
    return _read_manifest(Path(path), parse_network_manifest)


def read_any_manifest(path: str | os.PathLike[str]) -> AnyManifest:
    """:func:`read_manifest` for a file of either kind."""
    return _read_manifest(Path(path), parse_any_manifest)


def _read_manifest(path: Path, parse: _Parse[_M]) -> _M:
    if os.path.exists(next_path(manifest_path(path))):
        with suppress(ArtifactError):
            return _while_replaced(path, lambda: _read_pair(path, parse)).manifest
    if not os.path.exists(manifest_path(path)):
        check_regular(path, "artifact")  # where both are missing, the path is wrong
    return parse_manifest_of(path, manifest_path(path), parse)


def parse_any_manifest(data: bytes, path: Path) -> AnyManifest:
    """The manifest in the bytes of a file, of either kind; path is for errors."""
    if CONTRACT_FIELD in read_object(data, path):
        return parse_network_manifest(data, path)
    return parse_manifest(data, path)


def read_artifact(path: str | os.PathLike[str], canvas: bool = False) -> Artifact:
    """The file and its manifest, checked against each other.

    The file is read once, and the hash is computed over the returned bytes: the file cannot change between
    check and use. While another process replaces the artifact, the old pair or the new one is returned.

    Args:
        path: of the file.
        canvas: read its canvas part too, if it has one.

    Raises:
        ArtifactError: either file is missing or unreadable, or they do not belong together.
    """
    path = Path(path)

    def read() -> Artifact:
        pair = _read_pair(path, parse_manifest)
        artifact = Artifact(path, pair.payload, pair.manifest)
        return _with_canvas(artifact) if canvas else artifact

    return _while_replaced(path, read)


def read_network(path: str | os.PathLike[str]) -> NetworkArtifact:
    """:func:`read_artifact` for a third-party network."""
    path = Path(path)
    pair = _while_replaced(path, lambda: _read_pair(path, parse_network_manifest))
    return NetworkArtifact(path, pair.payload, pair.manifest)


def _while_replaced(path: Path, read: Callable[[], _R]) -> _R:
    """What read returns; read again if files of the artifact were replaced meanwhile."""
    check_regular(path, "artifact")  # named before its manifest
    for _ in range(_READ_ATTEMPTS):
        before = _state(path)
        try:
            return read()
        except ArtifactError:
            if _state(path) == before:
                raise
    return read()


def _with_canvas(artifact: Artifact) -> Artifact:
    """The artifact with the bytes of its canvas part, if it has one."""
    path, part = artifact.path, artifact.manifest.canvas_part
    if part is None:
        return artifact
    final = canvas_path(path)
    # While the artifact is replaced, or if that was interrupted, the file is still hidden.
    places = [place for place in (final, next_path(final)) if os.path.exists(place)] or [final]
    digest = ""
    for place in places:
        payload = read_bounded(place, "canvas part", MAX_PAYLOAD_BYTES[artifact.manifest.kind])
        digest = hashlib.sha256(payload).hexdigest()
        if digest == part.sha256:
            return replace(artifact, canvas=payload)
    raise ArtifactError(
        f"canvas part {final} does not match the manifest of {path}: sha256",
        expected=part.sha256,
        got=digest,
        fix=f"the file is damaged or was replaced; copy it again with the artifact, or {EXPORT_AGAIN}",
    )


def _read_pair(path: Path, parse: _Parse[_M]) -> _Pair[_M]:
    """The manifest first, because a writer replaces it last."""
    manifest: _M | None = None
    missing: ArtifactError | None = None
    try:
        manifest = parse_manifest_of(path, manifest_path(path), parse)
    except ArtifactError as error:
        missing = error
    kinds = MAX_PAYLOAD_BYTES if manifest is None else (manifest.kind,)
    payload = read_bounded(path, "artifact", max(MAX_PAYLOAD_BYTES[kind] for kind in kinds))
    digest = hashlib.sha256(payload).hexdigest()
    if manifest is None or digest != manifest.sha256:
        # A writer, possibly one that was killed, may have replaced the file and not yet its manifest.
        following = next_path(manifest_path(path))
        if os.path.exists(following):
            with suppress(ArtifactError):
                candidate = parse_manifest_of(path, following, parse)
                if digest == candidate.sha256:
                    return _Pair(payload, candidate)
    if manifest is None:
        raise missing or AssertionError
    if digest != manifest.sha256:
        raise ArtifactError(
            f"artifact {path} does not match its manifest: sha256",
            expected=manifest.sha256,
            got=f"{digest} over {len(payload)} bytes",
            fix=f"the file is damaged or was replaced; copy both files again, or {EXPORT_AGAIN}",
        )
    return _Pair(payload, manifest)


def parse_manifest_of(path: Path, source: Path, parse: _Parse[_M]) -> _M:
    """Read the manifest of the artifact ``path`` from the file ``source``."""
    whole = whole_of(path)
    if whole is not None and not os.path.exists(source):
        raise ArtifactError(
            f"artifact {path}", expected="a file with a manifest", got="a canvas part", fix=f"pass {whole}"
        )
    manifest = parse(read_bounded(source, "manifest", MAX_MANIFEST_BYTES), source)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix != path.suffix.lower():
        raise ArtifactError(
            f"manifest {source}: field 'kind'",
            expected=f"the kind of a {path.suffix or 'suffixless'} file",
            got=manifest.kind,
            fix=EXPORT_AGAIN,
        )
    if not manifest.sha256:
        raise ArtifactError(
            f"manifest {source}: field 'sha256'", expected="64 digits", got="''", fix=EXPORT_AGAIN
        )
    return manifest


def _state(path: Path) -> list[tuple[int, int] | None]:
    """Which files an artifact consists of: changes whenever one of them is replaced."""
    files = (manifest_path(path), path, canvas_path(path))
    return [file_state(file) for file in (*files, next_path(files[0]), next_path(files[2]))]


def whole_of(path: str | os.PathLike[str]) -> Path | None:
    """The artifact whose canvas part has this path; None if it is not that of a canvas part."""
    path = Path(path)
    whole = path.with_name(path.stem.removesuffix(".canvas") + path.suffix)
    if whole == path:
        return None
    with suppress(ArtifactError):
        manifest = parse_any_manifest(
            read_bounded(manifest_path(whole), "manifest", MAX_MANIFEST_BYTES), whole
        )
        if isinstance(manifest, Manifest) and manifest.canvas_part is not None:
            return whole
    return None


def check_regular(path: Path, what: str) -> None:
    """ArtifactError unless path is a regular file; ``what`` is the kind of file, for the message."""
    with _typed(path, what):
        open_regular(path, max(MAX_PAYLOAD_BYTES.values())).close()


def read_bounded(path: Path, what: str, limit: int) -> bytes:
    """A regular file of at most ``limit`` bytes; ArtifactError for any other, ``what`` names it there."""
    with _typed(path, what):
        return read_regular(path, limit)


@contextmanager
def _typed(path: Path, what: str) -> Iterator[None]:
    """OSError of a file that is opened or read -> ArtifactError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a file", got="nothing at this path", fix=_fix(what, path)
        ) from error
    except PermissionError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise ArtifactError(
                f"{what} {path}", expected="enough memory", got=error.strerror, fix=MEMORY_FIX
            ) from error
        kind = "a file of the usual size" if error.errno == errno.EFBIG else "a regular file"
        raise ArtifactError(
            f"{what} {path}", expected=kind, got=error.strerror or error, fix=_fix(what, path)
        ) from error


def _fix(what: str, path: Path) -> str:
    if what == "manifest":
        if path.name.endswith(".json.json"):  # the manifest itself was passed
            return f"pass the artifact, {path.name.removesuffix('.json.json')}"
        other = "; a third-party .onnx file becomes an artifact by imp-export FILE.onnx"
        is_onnx = path.name.endswith(".onnx.json")
        return f"the manifest belongs next to the artifact; copy it there, or {EXPORT_AGAIN}{other * is_onnx}"
    if what == "canvas part":
        return f"the canvas part belongs next to the artifact; copy it there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
