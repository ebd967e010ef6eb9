"""The class table that training, checkpoints, artifacts and results share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from imp_trt.errors import InvalidInput

IGNORE_INDEX = 255
"""Semantic label of a pixel that neither the loss nor the metrics look at."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """Names, colors and things of a set of semantic classes.

    Attributes:
        names: class names; position = semantic index, at most 255 of them.
        things: semantic indices of the classes with instances, ascending. Channel k of the IMP
            canvas, and label k of the detector, is class ``things[k]``.
        palette: one RGB color per class, 0-255.

    Raises:
        InvalidInput: sizes disagree, an index is out of range, or a name occurs twice.
    """

    names: tuple[str, ...]
    things: tuple[int, ...]
    palette: tuple[Rgb, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE_INDEX:
            raise InvalidInput("class names", expected="1 to 255 of them", got=len(self.names))
        if len(set(self.names)) != len(self.names):
            raise InvalidInput("class names", expected="each name once", got=self.names)
        if len(self.palette) != len(self.names):
            raise InvalidInput("palette", expected=f"{len(self.names)} colors", got=len(self.palette))
        if any(len(rgb) != 3 or not all(0 <= v <= 255 for v in rgb) for rgb in self.palette):
            raise InvalidInput("palette", expected="RGB triples of 0-255", got=self.palette)
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

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassTable:
        """Inverse of :meth:`to_dict`; raises InvalidInput on a missing or malformed field."""
        try:
            return cls(
                names=tuple(str(n) for n in data["names"]),
                things=tuple(int(t) for t in data["things"]),
                palette=tuple((int(r), int(g), int(b)) for r, g, b in data["palette"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput("class table", expected="names, things, palette", got=repr(error)) from error


def default_palette(count: int) -> tuple[Rgb, ...]:
    """``count`` distinct RGB colors, class 0 black: the bits of the index spread over the channels."""
    colors: list[Rgb] = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= ((index >> bit) & 1) << (7 - bit // 3)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)
