# SPDX-License-Identifier: Apache-2.0
"""An artifact: a file with a network and the manifest next to it, read and written as a pair."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
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
from imp_trt.data.files import open_regular, read_regular, room_for, temporary_beside, write_and_sync
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
    """

    path: Path
    payload: bytes
    manifest: Manifest


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.json`` for an artifact file."""
    path = Path(path)
    return path.with_name(path.name + ".json")


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of an artifact file, without reading the file itself.

    Raises:
        ArtifactError: the manifest is missing, unreadable, malformed or has another schema.
    """
    source = manifest_path(path)
    manifest = parse_manifest(_read(source, "manifest", MAX_MANIFEST_BYTES), source)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix != Path(path).suffix.lower():
        raise ArtifactError(
            f"manifest {source}: field 'kind'",
            expected=f"the kind of a {Path(path).suffix or 'suffixless'} file",
            got=manifest.kind,
            fix=EXPORT_AGAIN,
        )
    if not manifest.sha256:
        raise ArtifactError(
            f"manifest {source}: field 'sha256'", expected="64 digits", got="''", fix=EXPORT_AGAIN
        )
    return manifest


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """The file and its manifest, checked against each other.

    The file is read once, and the hash is computed over the returned bytes: the file cannot change between
    check and use.

    Raises:
        ArtifactError: either file is missing or unreadable, or they do not belong together.
    """
    path = Path(path)
    with _typed(path, "artifact"):
        open_regular(path, max(MAX_PAYLOAD_BYTES.values())).close()  # named before its manifest
    manifest = read_manifest(path)
    payload = _read(path, "artifact", MAX_PAYLOAD_BYTES[manifest.kind])
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest.sha256:
        raise ArtifactError(
            f"artifact {path} does not match its manifest: sha256",
            expected=manifest.sha256,
            got=f"{digest} over {len(payload)} bytes",
            fix=f"the file is damaged or was replaced; copy both files again, or {EXPORT_AGAIN}",
        )
    return Artifact(path, payload, manifest)


def write_artifact(path: str | os.PathLike[str], payload: bytes, manifest: Manifest) -> Path:
    """Write the file and its manifest so that either both appear or neither does.

    Missing folders are created. An existing artifact stays until both new files are complete, and is
    restored if replacing it is interrupted. ``sha256`` and ``created`` of the manifest are set here.

    Returns:
        path, as a Path.

    Raises:
        InvalidInput: the manifest's kind does not match the suffix, or it has values that JSON does not
            support.
        OutputError: the folder is not writable or full.
    """
    path = Path(path)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix is None or path.suffix.lower() != suffix:
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
        with _locked(path.parent) as folder, temporary_beside(path) as new_payload:
            write_and_sync(new_payload, payload)
            target = manifest_path(path)
            with temporary_beside(target) as new_manifest:
                write_and_sync(new_manifest, text.encode())
                _replace(path, new_payload, target, new_manifest)
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix=room_for(path),
        ) from error
    return path


def _replace(path: Path, new_payload: Path, manifest: Path, new_manifest: Path) -> None:
    """Move both files to their paths; on any error in between, the earlier state is restored.

    The rename of the manifest completes the operation: an exception after it undoes nothing.
    """
    with temporary_beside(path) as earlier:
        existed = path.exists()
        if existed:
            _link_or_copy(path, earlier)
        try:
            os.replace(new_payload, path)
            os.replace(new_manifest, manifest)
        except BaseException:
            # A signal can arrive after the last rename and before it returns; then the new manifest is in
            # place, and the earlier file would not match it.
            if new_manifest.exists():
                if existed:
                    os.replace(earlier, path)
                else:
                    path.unlink(missing_ok=True)
            raise


def _link_or_copy(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Exclusive lock on a folder, so that of two writers of one path one wins completely."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no locks. There the last writer wins, and a mixed pair is rejected
        # when it is read, because the hash does not match.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(path: Path, what: str, limit: int) -> bytes:
    with _typed(path, what):
        return read_regular(path, limit)


@contextmanager
def _typed(path: Path, what: str) -> Iterator[None]:
    """OSError of a file that is opened or read -> ArtifactError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a file", got="nothing at this path", fix=_fix(what)
        ) from error
    except PermissionError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from error
    except OSError as error:
        kind = "a file of the usual size" if error.errno == errno.EFBIG else "a regular file"
        raise ArtifactError(
            f"{what} {path}", expected=kind, got=error.strerror or error, fix=_fix(what)
        ) from error


def _fix(what: str) -> str:
    if what == "manifest":
        return f"the manifest belongs next to the artifact; copy it there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
