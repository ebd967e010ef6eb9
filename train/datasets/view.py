# SPDX-License-Identifier: Apache-2.0
"""A dataset of files seen with other things, or some of its images alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from imp_trt.classes import ClassTable
from imp_trt.data.dataset import Dataset, Sample, checked_index
from imp_trt.data.instance_maps import connected_instances, renumbered

MIN_AREA = 50
"""Connected components with fewer pixels are not instances."""


@runtime_checkable
class FileDataset(Dataset, Protocol):
    """A dataset whose images are files."""

    def image_name(self, index: int) -> str:
        """Name of an image in messages."""
        ...

    def image_path(self, index: int) -> Path:
        """File of an image."""
        ...

    def content_digest(self) -> str:
        """Short digest of labels and images."""
        ...


class DatasetView:
    """Wraps a dataset.

    Args:
        dataset: dataset to wrap.
        positions: images to keep; None keeps all.
        classes: other table of the same names. Classes that are no longer things lose their instances;
            those of classes that become things are connected components.
        name, terms: None keeps those of the dataset.
    """

    def __init__(
        self,
        dataset: FileDataset,
        *,
        positions: Sequence[int] | None = None,
        classes: ClassTable | None = None,
        name: str | None = None,
        terms: str | None = None,
    ) -> None:
        self.dataset = dataset
        self._positions = list(range(len(dataset)) if positions is None else positions)
        self._classes = classes or dataset.classes
        self._name = name or dataset.name
        self._terms = terms or dataset.terms

    @property
    def name(self) -> str:
        return self._name

    @property
    def classes(self) -> ClassTable:
        return self._classes

    @property
    def terms(self) -> str | None:
        return self._terms

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[self._positions[checked_index(index, len(self))]]
        return with_things(sample, self.dataset.classes.things, self._classes.things)

    def image_name(self, index: int) -> str:
        """Name of an image in messages."""
        return self.dataset.image_name(self._positions[index])

    def image_path(self, index: int) -> Path:
        """File of an image."""
        return self.dataset.image_path(self._positions[index])

    def content_digest(self) -> str:
        """Short digest of the wrapped dataset, the selected images and the things."""
        settings = f"{self.dataset.content_digest()} {self._positions} {self._classes.things}"
        return hashlib.sha256(settings.encode()).hexdigest()[:16]


def with_things(sample: Sample, old: Sequence[int], new: Sequence[int]) -> Sample:
    """A sample with the instances of other classes.

    Args:
        sample: with instances of the classes ``old``.
        old, new: things, as semantic indices.
    """
    if set(old) == set(new):
        return sample
    keeps = np.isin(sample.semantic, [thing for thing in new if thing in old])
    instances = np.where(keeps, sample.instances, 0).astype(np.int32)
    added = connected_instances(sample.semantic, [thing for thing in new if thing not in old], MIN_AREA)
    instances[added > 0] = added[added > 0] + instances.max()
    crowd = None if sample.crowd is None else np.where(keeps, sample.crowd, 0).astype(np.uint16)
    if crowd is not None and not crowd.any():
        crowd = None
    return Sample(sample.image, sample.semantic, renumbered(instances), crowd)
