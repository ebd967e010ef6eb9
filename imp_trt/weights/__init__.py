# SPDX-License-Identifier: Apache-2.0
"""Weights that are part of the wheel, each with a model card."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from imp_trt.errors import CheckpointError

DEMO = "scenes"


def bundled(name: str = DEMO) -> Path:
    """Return the path of a bundled checkpoint.

    Raises:
        CheckpointError: the package has no checkpoint of this name.
    """
    resource = files(__name__) / f"{name}.safetensors"
    with as_file(resource) as path:
        if path.is_file():
            return path
    raise CheckpointError(
        "bundled weights",
        expected="'scenes'",
        got=repr(name),
        fix="install imp-trt again; imp-export --weights FILE.safetensors takes your own weights",
    )
