# SPDX-License-Identifier: Apache-2.0
"""The text of a manifest as a JSON object: strict, bounded, and with errors that name the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

from imp_trt.artifacts import fields as check
from imp_trt.artifacts.fields import EXPORT_AGAIN
from imp_trt.data.unique_keys import DuplicateKey, unique_keys
from imp_trt.errors import ArtifactError

MAX_MANIFEST_BYTES = 1 << 20
_MAX_DEPTH = 32


def read_object(data: bytes, path: Path) -> dict[str, object]:
    """The JSON object in the bytes of a manifest; path is used in errors only.

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
    return raw


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
