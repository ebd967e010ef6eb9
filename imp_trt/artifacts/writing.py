# SPDX-License-Identifier: Apache-2.0
"""Writes an artifact: all of its files appear together, or none does."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from imp_trt.artifacts.artifact import (
    MAX_PAYLOAD_BYTES,
    SUFFIXES,
    AnyManifest,
    Artifact,
    canvas_path,
    golden_path,
    manifest_path,
    own_golden_path,
)
from imp_trt.artifacts.json_object import MAX_MANIFEST_BYTES
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.reading import (
    parse_any_manifest,
    parse_manifest_of,
    read_any_manifest,
    read_artifact,
    read_bounded,
    whole_of,
)
from imp_trt.artifacts.replacement import finish, locked, next_path, replace_together
from imp_trt.data.files import MAX_NAME_BYTES, room_for, unwritable, written_beside
from imp_trt.errors import ArtifactError, InvalidInput, OutputError


def write_artifact(
    path: str | os.PathLike[str],
    payload: bytes,
    manifest: AnyManifest,
    golden: bytes | None = None,
    canvas: bytes | None = None,
) -> Path:
    """Write the file, its manifest, its golden frames and its canvas part so that all appear or none does.

    Missing folders are created. An existing artifact stays until the new files are complete: a reader in
    another process gets the old files or the new ones, also if this process is killed at any moment. Files
    of the old artifact that the new one does not have are removed last.
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
        OutputError: the folder is not writable or full, the name is too long, or the path belongs to another
            artifact's canvas part.
    """
    path = Path(path)
    _check_path(path, manifest)
    text = _manifest_text(path, manifest, payload, golden, canvas)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.parent) as folder, ExitStack() as stack:
            # The large file is the last one to be written: only then the others have names. Of the others
            # the manifest is last: while it is hidden, readers look for it.
            files = {manifest_path(path): text, path: payload}
            if golden is not None:
                files = {_free_golden_path(path, golden): golden, **files}
            if canvas is not None:
                files = {_free_canvas_path(path): canvas, **files}
            new = {final: stack.enter_context(written_beside(final, data)) for final, data in files.items()}
            _finish_replacement(path)
            outdated = _only_in_present(path, set(files))
            replace_together(path, new, partial(_finish_replacement, path))
            for file in outdated:
                file.unlink(missing_ok=True)
            os.fsync(folder)
    except OSError as error:
        raise OutputError(
            f"artifact {path} cannot be written",
            got=error.strerror or error,
            fix=room_for(path),
        ) from error
    return path


def _check_path(path: Path, manifest: AnyManifest) -> None:
    """Raises InvalidInput if the suffix is not that of the kind, OutputError for a taken or too long name."""
    suffix = SUFFIXES.get(manifest.kind)
    if suffix is None or path.suffix.lower() != suffix:
        raise InvalidInput(
            f"artifact {path}", expected=f"a file name that ends with {suffix}", got=path.suffix or "none"
        )
    check_name_length(path)
    if (whole := whole_of(path)) is not None:
        raise OutputError(
            f"artifact {path}",
            expected="a name that is free",
            got=f"the canvas part of {whole}",
            fix="choose another name",
        )


def check_name_length(path: Path) -> None:
    """OutputError if the artifact's other files would have names that are too long, also while replaced."""
    name = len(os.fsencode(path.name))
    added = max(len(os.fsencode(next_path(file).name)) for file in _others(path)) - name
    if name + added > MAX_NAME_BYTES:
        raise OutputError(
            f"artifact {path}",
            expected=f"a file name of at most {MAX_NAME_BYTES - added} bytes",
            got=f"{name} bytes",
            fix="choose a shorter name",
        )


def _others(path: Path) -> tuple[Path, ...]:
    """The files that an artifact may have besides its main one, see :func:`finish`."""
    return canvas_path(path), golden_path(path), own_golden_path(path), manifest_path(path)


def _manifest_text(
    path: Path, manifest: AnyManifest, payload: bytes, golden: bytes | None, canvas: bytes | None
) -> bytes:
    """The manifest as JSON, with the hashes of the files and the time set."""
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
    text = (
        replace(
            manifest,
            sha256=hashlib.sha256(payload).hexdigest(),
            golden_sha256="" if golden is None else hashlib.sha256(golden).hexdigest(),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        .to_json()
        .encode()
    )
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidInput("manifest", expected=f"at most {MAX_MANIFEST_BYTES} bytes", got=len(text))
    return text


def _only_in_present(path: Path, new: set[Path]) -> list[Path]:
    """Files that belong to the artifact at path alone, by their hash, and not to the one that replaces it."""
    try:
        present = read_any_manifest(path)
    except ArtifactError:
        return []
    part = present.canvas_part if isinstance(present, Manifest) else None
    owned = {own_golden_path(path): present.golden_sha256}
    if not any(path.with_suffix(suffix).exists() for suffix in SUFFIXES.values() if suffix != path.suffix):
        owned[golden_path(path)] = present.golden_sha256
    if part is not None:
        owned[canvas_path(path)] = part.sha256
    outdated = []
    for file, digest in owned.items():
        if digest and file not in new and file.is_file():
            with suppress(ArtifactError):
                data = read_bounded(file, "file", MAX_PAYLOAD_BYTES[present.kind])
                if hashlib.sha256(data).hexdigest() == digest:
                    outdated.append(file)
    return outdated


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
    following = next_path(manifest_path(path))
    complete = False
    if os.path.exists(following):
        with suppress(ArtifactError):
            payload = read_bounded(path, "artifact", max(MAX_PAYLOAD_BYTES.values()))
            candidate = parse_manifest_of(path, following, parse_any_manifest)
            complete = candidate.sha256 == hashlib.sha256(payload).hexdigest()
    finish(_others(path), complete)
