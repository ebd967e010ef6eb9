# SPDX-License-Identifier: Apache-2.0
"""An artifact: a file with a network and the manifest next to it, read and written as a pair."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from imp_trt.artifacts.json_object import read_object
from imp_trt.artifacts.manifest import (
    CONTRACT_FIELD,
    EXPORT_AGAIN,
    MAX_MANIFEST_BYTES,
    EngineInfo,
    InputContract,
    Kind,
    Manifest,
    TensorSpec,
    output_specs,
    parse_manifest,
)
from imp_trt.artifacts.network_manifest import NetworkManifest, parse_network_manifest
from imp_trt.artifacts.replacement import file_state, finish, locked, next_path, replace_together
from imp_trt.data.files import open_regular, read_regular, room_for, unwritable, written_beside
from imp_trt.errors import ArtifactError, InvalidInput, OutputError

__all__ = [
    "Artifact",
    "EngineInfo",
    "InputContract",
    "Manifest",
    "NetworkArtifact",
    "NetworkManifest",
    "TensorSpec",
    "canvas_path",
    "golden_path",
    "manifest_path",
    "output_specs",
    "read_artifact",
    "read_manifest",
    "read_network",
    "read_network_manifest",
    "write_artifact",
]

SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "engine": ".engine"}

# 2 GiB is the limit of protobuf, thus of an ONNX file in one piece. An engine is about as large as its ONNX
# file; it also contains kernels.
MAX_PAYLOAD_BYTES: dict[Kind, int] = {"onnx": 1 << 31, "engine": 1 << 32}

_READ_ATTEMPTS = 50
"""How often a reader starts again because a file was replaced meanwhile."""


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
_M = TypeVar("_M", Manifest, NetworkManifest, AnyManifest)
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Pair(Generic[_M]):
    payload: bytes
    manifest: _M


_Parse = Callable[[bytes, Path], _M]
"""From the bytes of a manifest; the path is for errors."""


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.json`` for an artifact file."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def canvas_path(path: str | os.PathLike[str]) -> Path:
    """``<file without its suffix>.canvas<suffix>`` for an artifact file: its canvas part, if it has one."""
    path = Path(path)
    return path.with_suffix(f".canvas{path.suffix}")


def whole_of(path: str | os.PathLike[str]) -> Path | None:
    """The artifact whose canvas part has this path; None if it is not that of a canvas part."""
    path = Path(path)
    whole = path.with_name(path.stem.removesuffix(".canvas") + path.suffix)
    if whole == path:
        return None
    with suppress(ArtifactError):
        manifest = _parse_any(read_bounded(manifest_path(whole), "manifest", MAX_MANIFEST_BYTES), whole)
        if isinstance(manifest, Manifest) and manifest.canvas_part is not None:
            return whole
    return None


def golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file without its suffix>.golden.npz`` for an artifact file; see :mod:`imp_trt.artifacts.golden`."""
    return Path(path).with_suffix(".golden.npz")


def own_golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.golden.npz``, where the other name belongs to an artifact of the same stem, as in
    ``model.onnx`` and ``model.engine``.
    """
    path = Path(path)
    return path.with_name(path.name + ".golden.npz")


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
    return _read_manifest(Path(path), _parse_any)


def _read_manifest(path: Path, parse: _Parse[_M]) -> _M:
    if os.path.exists(next_path(manifest_path(path))):
        with suppress(ArtifactError):
            return _while_replaced(path, lambda: _read_pair(path, parse)).manifest
    return _parse_manifest(path, manifest_path(path), parse)


def _parse_any(data: bytes, path: Path) -> AnyManifest:
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
        manifest = _parse_manifest(path, manifest_path(path), parse)
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
                candidate = _parse_manifest(path, following, parse)
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


def _parse_manifest(path: Path, source: Path, parse: _Parse[_M]) -> _M:
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


def write_artifact(
    path: str | os.PathLike[str],
    payload: bytes,
    manifest: AnyManifest,
    golden: bytes | None = None,
    canvas: bytes | None = None,
) -> Path:
    """Write the file, its manifest, its golden frames and its canvas part so that all appear or none does.

    Missing folders are created. An existing artifact stays until the new files are complete: a reader in
    another process gets the old files or the new ones, also if this process is killed at any moment.
    ``created`` and all hashes of the manifest are set here.

    Args:
        path: of the file.
        payload: its bytes.
        manifest: of the file.
        golden: content of ``<path without suffix>.golden.npz``; None writes none.
        canvas: bytes of the canvas part, for a manifest with one, written to :func:`canvas_path`.

    Returns:
        path, as a Path.

    Raises:
        InvalidInput: the manifest's kind does not match the suffix, it has values that JSON does not
            support, or only one of manifest and canvas has the canvas part.
        OutputError: the folder is not writable or full, or the path belongs to another artifact's canvas
            part.
    """
    path = Path(path)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix is None or path.suffix.lower() != suffix:
        raise InvalidInput(
            f"artifact {path}", expected=f"a file name that ends with {suffix}", got=path.suffix or "none"
        )
    if (whole := whole_of(path)) is not None:
        raise OutputError(
            f"artifact {path}",
            expected="a name that is free",
            got=f"the canvas part of {whole}",
            fix="choose another name",
        )
    part = manifest.canvas_part if isinstance(manifest, Manifest) else None
    if (part is None) != (canvas is None):
        raise InvalidInput(
            f"canvas part of artifact {path}",
            expected="its bytes and its entry in the manifest",
            got="only the bytes" if part is None else "only the entry",
        )
    if part is not None and canvas is not None:
        part = replace(part, sha256=hashlib.sha256(canvas).hexdigest())
    if isinstance(manifest, Manifest):
        manifest = replace(manifest, canvas_part=part)
    text = replace(
        manifest,
        sha256=hashlib.sha256(payload).hexdigest(),
        golden_sha256="" if golden is None else hashlib.sha256(golden).hexdigest(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    ).to_json()
    if len(text.encode()) > MAX_MANIFEST_BYTES:
        raise InvalidInput("manifest", expected=f"at most {MAX_MANIFEST_BYTES} bytes", got=len(text))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent) as folder, ExitStack() as stack:
            # The large file is the last one to be written: only then the others have names. Of the others
            # the manifest is last: while it is hidden, readers look for it.
            files = {manifest_path(path): text.encode(), path: payload}
            if golden is not None:
                files = {_free_golden_path(path, golden): golden, **files}
            if canvas is not None:
                files = {_free_canvas_path(path): canvas, **files}
            new = {final: stack.enter_context(written_beside(final, data)) for final, data in files.items()}
            _finish_replacement(path)
            replace_together(path, new, partial(_finish_replacement, path))
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix=room_for(path),
        ) from error
    return path


def _free_golden_path(path: Path, golden: bytes) -> Path:
    """Where golden frames of an artifact are written, so that no other artifact loses its own."""
    shared = golden_path(path)
    digest = hashlib.sha256(golden).hexdigest()
    for suffix in SUFFIXES.values():
        if suffix != path.suffix.lower():
            with suppress(ArtifactError):
                if read_any_manifest(path.with_suffix(suffix)).golden_sha256 not in ("", digest):
                    return own_golden_path(path)
    return shared


def _free_canvas_path(path: Path) -> Path:
    """Where the canvas part is written; OutputError if an artifact of its own has this name."""
    place = canvas_path(path)
    if os.path.exists(manifest_path(place)):
        raise OutputError(
            f"canvas part {place}",
            expected="a name that is free",
            got="an artifact of its own, with a manifest",
            fix="choose another name for the artifact",
        )
    return place


def write_manifest(artifact: Artifact, changed: Manifest) -> Path:
    """Replace the manifest of an artifact, such as to add measurements; the file itself stays.

    Returns:
        The path of the manifest.

    Raises:
        ArtifactError: the artifact was replaced since it was read.
        OutputError: the manifest cannot be written.
    """
    path = artifact.path
    target = manifest_path(path)
    try:
        with locked(path.parent), written_beside(target, changed.to_json().encode()) as new:
            _finish_replacement(path)
            if read_artifact(path).manifest.sha256 != changed.sha256:
                raise ArtifactError(
                    f"artifact {path}",
                    expected="the one that was measured",
                    got="another one",
                    fix="repeat it",
                )
            os.replace(new, target)
    except OSError as error:
        raise unwritable(target, error) from error
    return target


def _finish_replacement(path: Path) -> None:
    """Complete, or undo, the replacement of an artifact by a process that was killed or interrupted."""
    others = (canvas_path(path), golden_path(path), own_golden_path(path), manifest_path(path))
    following = next_path(manifest_path(path))
    complete = False
    if os.path.exists(following):
        with suppress(ArtifactError):
            payload = read_bounded(path, "artifact", max(MAX_PAYLOAD_BYTES.values()))
            candidate = _parse_manifest(path, following, _parse_any)
            complete = candidate.sha256 == hashlib.sha256(payload).hexdigest()
    finish(others, complete)


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
        kind = "a file of the usual size" if error.errno == errno.EFBIG else "a regular file"
        raise ArtifactError(
            f"{what} {path}", expected=kind, got=error.strerror or error, fix=_fix(what, path)
        ) from error


def _fix(what: str, path: Path) -> str:
    if what == "manifest":
        other = "; a third-party .onnx file becomes an artifact by imp-export FILE.onnx"
        is_onnx = path.name.endswith(".onnx.json")
        return f"the manifest belongs next to the artifact; copy it there, or {EXPORT_AGAIN}{other * is_onnx}"
    if what == "canvas part":
        return f"the canvas part belongs next to the artifact; copy it there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
