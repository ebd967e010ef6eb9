# SPDX-License-Identifier: Apache-2.0
"""Provenance of a result: the version of the source code and a digest of the configuration."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict, runtime_checkable

import imp_trt
from imp_trt.data.dataset import CachedDataset

if TYPE_CHECKING:
    from imp_trt.data.dataset import Dataset

# Set in git hooks; they would point git to another repository.
_REPOSITORY_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")

# Result files and pages that change during an experiment are not source code.
_SOURCES = (":(top)*.py", ":(top)*.cu", ":(top)*.h")


@functools.cache
def source_version() -> str:
    """Version of the source code of this process.

    The result of the first call is cached: the imported code stays the same when the files change.

    Returns:
        ``"commit <hash>"`` in a git checkout, ``"commit <hash>+changes"`` if source files differ from it;
        otherwise ``"version <package version>"``.
    """
    return checkout_version(Path(imp_trt.__file__).parent) or f"version {imp_trt.__version__}"


def checkout_version(package: Path) -> str | None:
    """The commit as in :func:`source_version`, or None if git does not track the package or is missing."""
    try:
        # A virtual environment inside another project's checkout must not report that project's commit.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD")
        changes = _git(package, "status", "--porcelain", "--untracked-files=all", "--", *_SOURCES)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"commit {commit}{'+changes' if changes else ''}"


def config_digest(settings: Mapping[str, object]) -> str:
    """Short SHA-256 of settings as canonical JSON; key order, and tuple or list, do not matter."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class DatasetFacts(TypedDict):
    """Result of :func:`dataset_facts`."""

    name: str
    images: int
    size: list[int]
    first_sample: str


def dataset_facts(dataset: Dataset) -> DatasetFacts:
    """Properties that identify a dataset without reading all of it: name, length and first sample."""
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


@runtime_checkable
class _DigestedDataset(Protocol):
    """A dataset that can describe its content without decoding it."""

    def content_digest(self) -> str: ...


def dataset_digest(dataset: Dataset) -> str:
    """Short digest of a dataset's content, labels included; of datasets without files, of the first sample.

    Raises:
        DatasetError: a file cannot be read.
    """
    if isinstance(dataset, CachedDataset):
        dataset = dataset.dataset
    if isinstance(dataset, _DigestedDataset):
        return dataset.content_digest()
    return dataset_facts(dataset)["first_sample"]


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
