# SPDX-License-Identifier: Apache-2.0
"""Names of splits: tools disagree about that of the validation images, and some exports have none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

_SYNONYMS = (
    ("train", "training"),
    ("val", "valid", "validation", "dev"),
    ("test", "testing"),
)
SPLITS = tuple(names[0] for names in _SYNONYMS)
"""Names of splits in this package."""

_ANY = "|".join(name for names in _SYNONYMS for name in names)
_VERSION = re.compile(r"\.rf\.\w+(?=\.\w+$)")

VAL_SHARE = 5
"""One of this many images of a dataset without splits belongs to val."""


def canonical(split: str) -> str:
    """train, val or test for their synonyms; other names as they are."""
    return next((names[0] for names in _SYNONYMS if split.lower() in names), split)


def synonyms(split: str) -> tuple[str, ...]:
    """The name itself, then the other names of the same split."""
    names = next((names for names in _SYNONYMS if split.lower() in names), ())
    return (split, *(name for name in names if name != split))


def matching(split: str, present: Iterable[str]) -> str | None:
    """The name under which a split is present, or None."""
    names = list(present)
    wanted = canonical(split)
    return split if split in names else next((n for n in names if canonical(n) == wanted), None)


def words(name: str) -> frozenset[str]:
    """The words of a file name, those for splits as in :func:`canonical`: val of instances_valid2017.json.

    Two splits that are written together are two words: train and val of trainval.
    """
    separate = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    parts = re.split(r"[^a-z0-9]+", separate)
    parts += [re.sub(r"(?<=[a-z])\d{4}$", "", part) for part in parts]  # the year
    both = [re.fullmatch(f"({_ANY})({_ANY})", part) for part in parts]
    parts += [part for match in both if match for part in match.groups()]
    # The dev of COCO's test-dev is not val.
    return frozenset(part if part == "dev" else canonical(part) for part in parts)


def divided(names: Sequence[str], split: str) -> list[int]:
    """Positions of the train or val images of a dataset that has no splits.

    Assigned by a hash of the file name, so that an image stays where it is when others are added; with two
    images or more, neither split is empty.
    """
    keys = [
        hashlib.sha256(f"imp-trt split 1:{name}".encode("utf-8", "surrogatepass")).digest() for name in names
    ]
    val = {index for index, key in enumerate(keys) if int.from_bytes(key[:8], "big") % VAL_SHARE == 0}
    if len(names) > 1 and len(val) in (0, len(names)):
        val = {min(range(len(names)), key=keys.__getitem__)}
    return [index for index in range(len(names)) if (index in val) == (canonical(split) == "val")]


def versions_apart(names: Sequence[str], positions: Sequence[int]) -> list[str]:
    """Images at the positions that are augmented versions of images at others, by the names of Roboflow."""
    sources = [_VERSION.sub("", name) for name in names]
    part = set(positions)
    others = {source for index, source in enumerate(sources) if index not in part}
    return [names[i] for i in positions if sources[i] in others and sources[i] != names[i]]
