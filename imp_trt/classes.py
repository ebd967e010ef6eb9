# SPDX-License-Identifier: Apache-2.0
"""The class table of training, checkpoints, artifacts and results."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imp_trt.errors import InvalidInput

IGNORE_INDEX = 255
"""Semantic label of pixels that the loss and the metrics ignore."""

MAX_NAME = 1000
"""Largest number of characters of a class name."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """Names, colors and things of a set of semantic classes.

    Attributes:
        names: class names in the order of the semantic index, at most 255.
        things: semantic indices of the classes with instances, ascending. Channel k of the IMP
            canvas, and label k of the detector, is class ``things[k]``.
        palette: one RGB color per class, 0-255.

    Raises:
        InvalidInput: sizes differ, an index is out of range, a name occurs twice or has more than 1000
            characters, or a lone surrogate, which no file in UTF-8 can hold.
    """

    names: tuple[str, ...]
    things: tuple[int, ...]
    palette: tuple[Rgb, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE_INDEX:
            raise InvalidInput("class names", expected="1 to 255 names", got=len(self.names))
        unusable = next((name for name in self.names if not _is_storable(name)), None)
        if unusable is not None:
            expected = f"at most {MAX_NAME} characters, without lone surrogates"
            raise InvalidInput("class name", expected=expected, got=repr(unusable)[:80])
        if len(set(self.names)) != len(self.names):
            raise InvalidInput("class names", expected="each name once", got=self.names)
        if len(self.palette) != len(self.names):
            raise InvalidInput("palette", expected=f"{len(self.names)} colors", got=len(self.palette))
        if any(len(rgb) != 3 or not all(_is_level(v) for v in rgb) for rgb in self.palette):
            # Fractions, as of matplotlib, would be drawn as black.
            raise InvalidInput("palette", expected="RGB triples of integers, 0-255", got=self.palette)
        if list(self.things) != sorted(set(self.things)):
            raise InvalidInput("things", expected="ascending, each index once", got=self.things)
        if any(not 0 <= t < len(self.names) for t in self.things):
            raise InvalidInput("things", expected=f"indices below {len(self.names)}", got=self.things)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def stuff(self) -> tuple[int, ...]:
        """Semantic indices of the classes without instances."""
        return tuple(i for i in range(len(self.names)) if i not in self.things)

    def to_dict(self) -> dict[str, object]:
        """Data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> ClassTable:
        """Inverse of :meth:`to_dict`; raises InvalidInput on a missing or malformed field."""
        raw: Mapping[str, Any] = data  # of any types: what does not convert raises
        try:
            return cls(
                names=tuple(_name(n) for n in raw["names"]),
                things=tuple(int(t) for t in raw["things"]),
                palette=tuple((int(r), int(g), int(b)) for r, g, b in raw["palette"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput("class table", expected="names, things, palette", got=repr(error)) from error


def _is_level(value: Any) -> bool:
    return hasattr(value, "__index__") and 0 <= operator.index(value) <= 255


def _is_storable(name: str) -> bool:
    return len(name) <= MAX_NAME and not any("\ud800" <= character <= "\udfff" for character in name)


def _name(value: object) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"a class name is {type(value).__name__}")
    return str(value)


def default_palette(count: int) -> tuple[Rgb, ...]:
    """``count`` distinct RGB colors by PASCAL VOC's rule, class 0 black."""
    colors: list[Rgb] = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)
