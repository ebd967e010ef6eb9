"""Where a result comes from: the version of the source and a digest of the configuration."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imp_trt

if TYPE_CHECKING:
    from imp_trt.data.dataset import Dataset

# Set inside git hooks; they would make git answer for another repository.
_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

# A result file or a page that changes during an experiment does not change the code.
_SOURCES = (":(top)*.py", ":(top)*.cu", ":(top)*.h")


@functools.cache
def source_version() -> str:
    """Version of the source that this process runs.

    The first call decides: a process keeps running what it has imported when the files change.

    Returns:
        ``"commit <hash>"`` in a git checkout, ``"commit <hash>+changes"`` if source files differ from it;
        otherwise ``"version <package version>"``.
    """
    return checkout_version(Path(imp_trt.__file__).parent) or f"version {imp_trt.__version__}"


def checkout_version(package: Path) -> str | None:
    """The commit as in :func:`source_version`, or None if git does not track the package or is missing."""
    try:
        # An environment inside another project's checkout must not be named after that project.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD")
        changes = _git(package, "status", "--porcelain", "--untracked-files=all", "--", *_SOURCES)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"commit {commit}{'+changes' if changes else ''}"


def config_digest(settings: Mapping[str, Any]) -> str:
    """Short SHA-256 of settings as canonical JSON: key order and tuple or list make no difference."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """What tells a data set from another without reading all of it: name, length and first sample."""
    sample = dataset[0]
    pixels = hashlib.sha256()
    for array in (sample.image, sample.semantic, sample.instances):
        pixels.update(array.tobytes())
    return {
        "name": dataset.name,
        "images": len(dataset),
        "size": list(sample.size),
        "first_sample": pixels.hexdigest()[:12],
    }


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],
        env={k: v for k, v in os.environ.items() if k not in _REPOSITORY_VARIABLES},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()
