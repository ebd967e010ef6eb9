# SPDX-License-Identifier: Apache-2.0
"""The text of a manifest as a JSON object: strict, bounded, and with errors that name the file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path

from imp_trt.artifacts import fields as check
from imp_trt.artifacts.fields import EXPORT_AGAIN
from imp_trt.data.unique_keys import DuplicateKey, unique_keys
from imp_trt.errors import ArtifactError, InvalidInput

CHECKSUM_FIELD = "checksum"
"""SHA-256 of all other fields, so that a changed value does not pass for what was exported."""

MAX_MANIFEST_BYTES = 1 << 20
_MAX_DEPTH = 32

_log = logging.getLogger(__name__)
_told: set[tuple[Path, str]] = set()


def object_text(fields: Mapping[str, object]) -> str:
    """The text of a manifest with these fields and their checksum.

    Raises:
        InvalidInput: a value that JSON does not support.
    """
    try:
        return json.dumps({**fields, CHECKSUM_FIELD: _checksum(fields)}, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            "manifest", expected="finite numbers, strings, lists and dicts", got=error
        ) from error


def read_object(data: bytes, path: Path) -> dict[str, object]:
    """The JSON object in the bytes of a manifest, without its checksum; path is used in messages only.

    A checksum that differs is logged: class names and colors may be edited, a flipped bit may not be.

    Raises:
        ArtifactError: not JSON, too large, too deep, or a field twice.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise bad_field(path, "size", f"at most {MAX_MANIFEST_BYTES} bytes", f"{len(data)} bytes")
    try:
        raw = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=unique_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
    except check.FieldError as error:
        raise bad_field(path, error.name, error.expected, error.got) from error
    except DuplicateKey as error:
        raise bad_field(path, error.key, "each field once", "the field twice") from error
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise bad_field(path, "text", "a JSON object in UTF-8", check.short(error)) from error
    if not isinstance(raw, dict):
        raise bad_field(path, "text", "a JSON object", type(raw).__name__)
    if not _is_shallow(raw, _MAX_DEPTH):
        raise bad_field(path, "text", f"at most {_MAX_DEPTH} levels of nesting", "more")
    if CHECKSUM_FIELD in raw:
        _compare(raw.pop(CHECKSUM_FIELD), _checksum(raw), path)
    return raw


def _compare(written: object, found: str, path: Path) -> None:
    if not isinstance(written, str) or not re.fullmatch(r"[0-9a-f]{64}", written):
        raise bad_field(path, CHECKSUM_FIELD, "64 digits", check.short(written))
    if written != found and (path, found) not in _told:
        _told.add((path, found))
        _log.warning(
            "manifest %s was changed after it was written: its checksum differs, so its values may not be "
            "those that were verified. If nobody edited it, copy it again, or %s",
            path,
            EXPORT_AGAIN,
        )


def _checksum(fields: Mapping[str, object]) -> str:
    # Independent of the order of the fields and of white space.
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def bad_field(path: Path, name: str, expected: object, got: object) -> ArtifactError:
    """The error for a field of the manifest at path."""
    return ArtifactError(f"manifest {path}: field '{name}'", expected=expected, got=got, fix=EXPORT_AGAIN)


def _is_shallow(value: object, depth: int) -> bool:
    """Whether lists and objects are nested in at most this many levels; what writes them again recurses."""
    level: list[object] = [value]
    for _ in range(depth):
        level = [
            item
            for parent in level
            if isinstance(parent, dict | list)
            for item in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return True
    return not any(isinstance(item, dict | list) for item in level)


def _finite(text: str) -> float:
    # NaN and Infinity are not JSON although Python reads them; 1e999 would become infinity.
    value = float(text)
    if not math.isfinite(value):
        raise check.FieldError("text", "finite numbers", text[:80])
    return value
