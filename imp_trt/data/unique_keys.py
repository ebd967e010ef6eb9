# SPDX-License-Identifier: Apache-2.0
"""JSON objects that give a key twice are rejected: of two equal keys, readers keep different ones."""

from __future__ import annotations


class DuplicateKey(ValueError):
    """A JSON object gives a key twice."""

    def __init__(self, key: str) -> None:
        self.key = key[:80]
        super().__init__(f"the key {self.key!r} is given twice in one object")


def unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The ``object_pairs_hook`` of json.loads that rejects what Python would pass over in silence.

    Args:
        pairs: keys and values of one object, in the order of the text.

    Raises:
        DuplicateKey: two of the keys are equal.
    """
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKey(key)
            seen.add(key)
    return result
