# SPDX-License-Identifier: Apache-2.0
"""An artifact: a file with a network and the manifest next to it, read and written as a pair."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
from imp_trt.data.files import temporary_beside, write_and_sync
from imp_trt.errors import ArtifactError, InvalidInput, OutputError

__all__ = [
    "Artifact",
    "EngineInfo",
    "InputContract",
    "Manifest",
    "TensorSpec",
    "golden_path",
    "manifest_path",
    "output_specs",
    "read_artifact",
    "read_manifest",
    "write_artifact",
]

SUFFIXES: dict[Kind, str] = {"onnx": ".onnx", "engine": ".engine"}


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


def golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file without its suffix>.golden.npz`` for an artifact file; see :mod:`imp_trt.artifacts.golden`."""
    return Path(path).with_suffix(".golden.npz")


def own_golden_path(path: str | os.PathLike[str]) -> Path:
    """``<file>.golden.npz``, where the other name belongs to an artifact of the same stem, as in
    ``model.onnx`` and ``model.engine``.
    """
    path = Path(path)
    return path.with_name(path.name + ".golden.npz")


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
    manifest = parse_manifest(read_bounded(source, "manifest", MAX_MANIFEST_BYTES + 1), source)
    suffix = SUFFIXES.get(manifest.kind)
    if suffix != Path(path).suffix:
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
    check_regular(path, "artifact")
    manifest = read_manifest(path)
    payload = read_bounded(path, "artifact")
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest.sha256:
        raise ArtifactError(
            f"artifact {path} does not match its manifest: sha256",
            expected=manifest.sha256,
            got=f"{digest} over {len(payload)} bytes",
            fix=f"the file is damaged or was replaced; copy both files again, or {EXPORT_AGAIN}",
        )
    return Artifact(path, payload, manifest)


def write_artifact(
    path: str | os.PathLike[str], payload: bytes, manifest: Manifest, golden: bytes | None = None
) -> Path:
    """Write the file, its manifest and its golden frames so that either all appear or none does.

    Missing folders are created. An existing artifact stays until the new files are complete, and is
    restored if replacing it is interrupted. ``sha256``, ``golden_sha256`` and ``created`` of the manifest are
    set here.

    Args:
        path: of the file.
        payload: its bytes.
        manifest: of the file.
        golden: content of ``<path without suffix>.golden.npz``; None writes none.

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
        golden_sha256="" if golden is None else hashlib.sha256(golden).hexdigest(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    ).to_json()
    if len(text.encode()) > MAX_MANIFEST_BYTES:
        raise InvalidInput("manifest", expected=f"at most {MAX_MANIFEST_BYTES} bytes", got=len(text))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as folder, ExitStack() as stack:
            # The manifest is last: its rename completes the operation.
            files = {path: payload, manifest_path(path): text.encode()}
            if golden is not None:
                files = {_free_golden_path(path, golden): golden, **files}
            new = {final: stack.enter_context(temporary_beside(final)) for final in files}
            for final, data in files.items():
                write_and_sync(new[final], data)
            _replace(new)
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix="choose another path with -o, or free disk space",
        ) from error
    return path


def _free_golden_path(path: Path, golden: bytes) -> Path:
    """Where golden frames of an artifact are written, so that no other artifact loses its own."""
    shared = golden_path(path)
    digest = hashlib.sha256(golden).hexdigest()
    for suffix in SUFFIXES.values():
        if suffix != path.suffix:
            with suppress(ArtifactError):
                if read_manifest(path.with_suffix(suffix)).golden_sha256 not in ("", digest):
                    return own_golden_path(path)
    return shared


def _replace(new: Mapping[Path, Path]) -> None:
    """Move files, final path -> new file, in order; on any error in between, the earlier state is restored.

    The last rename completes the operation: an exception after it undoes nothing.
    """
    *_, last = new.values()
    with ExitStack() as stack:
        earlier: dict[Path, Path | None] = {}
        for final in new:
            backup = stack.enter_context(temporary_beside(final))
            earlier[final] = backup if final.exists() else None
            if final.exists():
                _link_or_copy(final, backup)
        try:
            for final, file in new.items():
                os.replace(file, final)
        except BaseException:
            # A signal can arrive after the last rename and before it returns; then the new manifest is in
            # place, and the earlier files would not match it.
            if last.exists():
                for final, before in earlier.items():
                    if before is not None:
                        os.replace(before, final)
                    elif not new[final].exists():
                        final.unlink(missing_ok=True)
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


def check_regular(path: Path, what: str) -> None:
    """ArtifactError unless path is a regular file; `what` is the kind of file, for the message."""
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


def read_bounded(path: Path, what: str, limit: int = -1) -> bytes:
    """The first `limit` bytes of a regular file, or all of it; ArtifactError if it cannot be read.

    Args:
        path: of the file.
        what: kind of the file, for the message.
        limit: maximum number of bytes; -1 for no limit.
    """
    check_regular(path, what)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ArtifactError(
            f"{what} {path}", expected="a readable file", got=error.strerror, fix="check its permissions"
        ) from error


def _fix(what: str) -> str:
    if what != "artifact":
        return f"the {what} must be next to the artifact; copy both there, or {EXPORT_AGAIN}"
    return f"check the path, or {EXPORT_AGAIN}"
