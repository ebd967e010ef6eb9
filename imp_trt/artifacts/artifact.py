"""An artifact: one file with a network, and the manifest beside it; read as a pair, written as a pair."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
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
    Manifest,
    TensorSpec,
    output_specs,
    parse_manifest,
)
from imp_trt.data.files import temporary_beside, write_and_sync
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

SUFFIXES = {"onnx": ".onnx", "engine": ".engine"}


@dataclass(frozen=True)
class Artifact:
    """A verified file in memory.

    Attributes:
        path: where it was read from.
        payload: its bytes; exactly those that the hash in the manifest was checked against.
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
        ArtifactError: the manifest is missing, unreadable, malformed or of another schema.
    """
    where = manifest_path(path)
    manifest = parse_manifest(_read(where, "manifest", MAX_MANIFEST_BYTES + 1), where)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix != Path(path).suffix:
        raise ArtifactError(
            f"manifest {where}: field 'kind'",
            expected=f"the kind of a {Path(path).suffix or 'suffixless'} file",
            got=manifest.kind,
            fix=EXPORT_AGAIN,
        )
    if not manifest.sha256:
        raise ArtifactError(
            f"manifest {where}: field 'sha256'", expected="64 digits", got="''", fix=EXPORT_AGAIN
        )
    return manifest


def read_artifact(path: str | os.PathLike[str]) -> Artifact:
    """The file and its manifest, checked against each other.

    The file is read once and the hash is taken over that buffer, which is the one to use: nobody can
    change the file between the check and the use.

    Raises:
        ArtifactError: either file is missing or unreadable, or they do not belong together.
    """
    path = Path(path)
    _regular(path, "artifact")
    manifest = read_manifest(path)
    payload = _read(path, "artifact")
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

    Missing folders are made. An artifact that was there before stays until both new files are
    complete, and comes back if the exchange is interrupted. ``sha256`` and ``created`` of the manifest
    are filled in here.

    Returns:
        path, as a Path.

    Raises:
        InvalidInput: the manifest's kind does not fit the suffix, or it holds what JSON cannot.
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
        with _locked(path.parent) as folder, temporary_beside(path) as new_payload:
            write_and_sync(new_payload, payload)
            where = manifest_path(path)
            with temporary_beside(where) as new_manifest:
                write_and_sync(new_manifest, text.encode())
                _exchange(path, new_payload, where, new_manifest)
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix="choose another path with -o, or make room",
        ) from error
    return path


def _exchange(path: Path, new_payload: Path, where: Path, new_manifest: Path) -> None:
    """Put both files in place; whatever goes wrong in between, the earlier state comes back.

    The rename of the manifest completes the exchange: what is raised after it undoes nothing.
    """
    with temporary_beside(path) as earlier:
        had_one = path.exists()
        if had_one:
            _second_name(path, earlier)
        try:
            os.replace(new_payload, path)
            os.replace(new_manifest, where)
        except BaseException:
            # A signal can arrive when the last rename is done but has not returned; then the new
            # manifest is in place, and the earlier file would not fit it.
            if new_manifest.exists():
                if had_one:
                    os.replace(earlier, path)
                else:
                    path.unlink(missing_ok=True)
            raise


def _second_name(path: Path, other: Path) -> None:
    try:
        os.link(path, other)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, other)


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Exclusive lock on a folder, so that two writers of one path leave one whole winner."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no locks; there the last writer wins, and a mixed pair is
        # refused on reading because the hash does not match.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _regular(path: Path, what: str) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a file", got="nothing at this path", fix=_mend(what)
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error, fix=_mend(what)
        ) from error
    # A FIFO would block for ever, and a folder has no bytes.
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"{what} {path}", expected="a regular file", got="another kind of file", fix=_mend(what)
        )


def _read(path: Path, what: str, limit: int = -1) -> bytes:
    _regular(path, what)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from error


def _mend(what: str) -> str:
    if what == "manifest":
        return f"the manifest lies beside the artifact; copy it there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
