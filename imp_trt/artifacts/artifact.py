# SPDX-License-Identifier: Apache-2.0
"""An artifact: a file with a network and the manifest next to it, read and written as a pair."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from imp_trt.artifacts.manifest import (
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
from imp_trt.data.files import unwritable, written_beside
from imp_trt.errors import ArtifactError, InvalidInput, OutputError

__all__ = [
    "Artifact",
    "EngineInfo",
    "InputContract",
    "Manifest",
    "TensorSpec",
    "manifest_path",
    "output_specs",
    "read_artifact",
    "read_manifest",
    "write_artifact",
]

SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "engine": ".engine"}

_READ_ATTEMPTS = 50
"""How often a reader starts again because a file was replaced meanwhile."""


@dataclass(frozen=True)
class Artifact:
    """A verified file in memory.

    Attributes:
        path: where it was read from.
        payload: its bytes, whose hash was compared with the manifest's.
        manifest: its manifest.
    """

    path: Path
    payload: bytes
    manifest: Manifest


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.json`` for an artifact file."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact file. The file itself is only read if its replacement was interrupted.

    Raises:
        ArtifactError: the manifest is missing, unreadable, malformed or has another schema.
    """
    path = Path(path)
    if os.path.exists(_next_manifest(path)):
        with suppress(ArtifactError):
            return read_artifact(path).manifest
    return _parse_manifest(path, manifest_path(path))


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """The file and its manifest, checked against each other.

    The file is read once, and the hash is computed over the returned bytes: the file cannot change between
    check and use. While another process replaces the artifact, the old pair or the new one is returned.

    Raises:
        ArtifactError: either file is missing or unreadable, or they do not belong together.
    """
    path = Path(path)
    _check_regular(path, "artifact")
    for _ in range(_READ_ATTEMPTS):
        before = _state(path)
        try:
            return _read_pair(path)
        except ArtifactError:
            if _state(path) == before:
                raise
    return _read_pair(path)


def _read_pair(path: Path) -> Artifact:
    """The manifest first, because a writer replaces it last."""
    manifest: Manifest | None = None
    missing: ArtifactError | None = None
    try:
        manifest = _parse_manifest(path, manifest_path(path))
    except ArtifactError as error:
        missing = error
    payload = _read(path, "artifact")
    digest = hashlib.sha256(payload).hexdigest()
    if manifest is None or digest != manifest.sha256:
        # A writer, possibly one that was killed, may have replaced the file and not yet its manifest.
        following = _next_manifest(path)
        if os.path.exists(following):
            with suppress(ArtifactError):
                candidate = _parse_manifest(path, following)
                if digest == candidate.sha256:
                    return Artifact(path, payload, candidate)
    if manifest is None:
        raise missing or AssertionError
    if digest != manifest.sha256:
        raise ArtifactError(
            f"artifact {path} does not match its manifest: sha256",
            expected=manifest.sha256,
            got=f"{digest} over {len(payload)} bytes",
            fix=f"the file is damaged or was replaced; copy both files again, or {EXPORT_AGAIN}",
        )
    return Artifact(path, payload, manifest)


def _parse_manifest(path: Path, source: Path) -> Manifest:
    """Read the manifest of the artifact ``path`` from the file ``source``."""
    manifest = parse_manifest(_read(source, "manifest", MAX_MANIFEST_BYTES + 1), source)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix != path.suffix:
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


def _next_manifest(path: Path) -> Path:
    """Where a writer keeps the new manifest until it has replaced both files: a hidden file.

    With it, a file whose manifest was not replaced because the process was killed still has its manifest.
    """
    return path.with_name(f".{path.name}.next")


def _state(path: Path) -> list[tuple[int, int] | None]:
    """Which files an artifact consists of: changes whenever one of them is replaced."""
    state: list[tuple[int, int] | None] = []
    for file in (manifest_path(path), path, _next_manifest(path)):
        try:
            found = file.stat()
            state.append((found.st_ino, found.st_mtime_ns))
        except (OSError, ValueError):
            state.append(None)
    return state


def write_artifact(path: str | os.PathLike[str], payload: bytes, manifest: Manifest) -> Path:
    """Write the file and its manifest so that either both appear or neither does.

    Missing folders are created. An existing artifact stays until both new files are complete: a reader in
    another process gets the old pair or the new one, also if this process is killed at any moment.
    ``sha256`` and ``created`` of the manifest are set here.

    Returns:
        path, as a Path.

    Raises:
        InvalidInput: the manifest's kind does not match the suffix, or it has values that JSON does not
            support.
        OutputError: the folder is not writable or full.
    """
    path = Path(path)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix is None or path.suffix != suffix:
        raise InvalidInput(
            f"artifact {path}", expected=f"a file name that ends with {suffix}", got=path.suffix or "none"
        )
    text = replace(
        manifest,
        sha256=hashlib.sha256(payload).hexdigest(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    ).to_json()
    if len(text.encode()) > MAX_MANIFEST_BYTES:
        raise InvalidInput("manifest", expected=f"at most {MAX_MANIFEST_BYTES} bytes", got=len(text))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _locked(path.parent) as folder,
            written_beside(manifest_path(path), text.encode()) as new_manifest,
        ):
            with written_beside(path, payload) as new_payload:
                _finish_replacement(path)
                _replace(path, new_payload, new_manifest)
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix="choose another path with -o, or free disk space",
        ) from error
    return path


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
        with _locked(path.parent), written_beside(target, changed.to_json().encode()) as new:
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


def _replace(path: Path, new_payload: Path, new_manifest: Path) -> None:
    """Move both files to their paths.

    The rename of the payload completes the operation: from then on, readers use the new manifest, whether
    or not it has its final name. An exception before it undoes everything.
    """
    following = _next_manifest(path)
    try:
        os.replace(new_manifest, following)
        os.replace(new_payload, path)
    except BaseException:
        # A signal can arrive after a rename and before it returns.
        if new_payload.exists():
            following.unlink(missing_ok=True)
        else:
            _finish_replacement(path)
        raise
    os.replace(following, manifest_path(path))


def _finish_replacement(path: Path) -> None:
    """Complete, or undo, the replacement of an artifact by a process that was killed or interrupted."""
    following = _next_manifest(path)
    if not os.path.exists(following):
        return
    try:
        complete = _parse_manifest(path, following).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    except (ArtifactError, FileNotFoundError):
        complete = False
    if complete:
        os.replace(following, manifest_path(path))
    else:
        following.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Exclusive lock on a folder, so that of two writers of one path one wins completely."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no locks. There the last writer wins, and a mixed pair of two
        # simultaneous ones is rejected when it is read, because the hash does not match.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_regular(path: Path, what: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a file", got="nothing at this path", fix=_fix(what)
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error, fix=_fix(what)
        ) from error
    # Reading a FIFO could block forever, and a folder has no content.
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"{what} {path}", expected="a regular file", got="another type of file", fix=_fix(what)
        )


def _read(path: Path, what: str, limit: int = -1) -> bytes:
    _check_regular(path, what)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from error


def _fix(what: str) -> str:
    if what == "manifest":
        return f"the manifest belongs next to the artifact; copy it there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
