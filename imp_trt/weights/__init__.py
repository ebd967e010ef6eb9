"""Weights that travel in the wheel; each has a model card beside it."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from imp_trt.errors import CheckpointError

DEMO = "scenes"


def bundled(name: str = DEMO) -> Path:
    """Path of the bundled checkpoint called name.

    Raises:
        CheckpointError: the package carries no checkpoint of that name.
    """
    resource = files(__name__) / f"{name}.safetensors"
    with as_file(resource) as path:
        if path.is_file():
            return path
    raise CheckpointError(
        "bundled weights",
        expected="'scenes'",
        got=repr(name),
        fix="pass --weights FILE.safetensors for weights of your own",
    )
