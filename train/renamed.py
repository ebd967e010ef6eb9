# SPDX-License-Identifier: Apache-2.0
"""Renamed recipe fields: their former names, which remain the JSON keys and are accepted for one version."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import TypeVar

T = TypeVar("T")

JSON_KEYS: Mapping[str, str] = {
    "lr": "peak",
    "min_lr": "end",
    "bias_lr_mult": "bias_rate",
    "canvas_lr_mult": "canvas_rate",
    "ohem_ratios": "bootstrap",
    "color": "colour",
}
"""JSON key of each renamed field of Stage and Recipe; all other keys equal the field names.

Checkpoints, result files and the digests that identify runs use these keys; renames do not affect them.
"""

FIELD_NAMES: Mapping[str, str] = {key: name for name, key in JSON_KEYS.items()}
"""Inverse of :data:`JSON_KEYS`: current field name of each former name."""


def json_key(name: str) -> str:
    """JSON key of a recipe field."""
    return JSON_KEYS.get(name, name)


def current_name(name: str, stacklevel: int = 2) -> str:
    """Current name of a recipe field; a former name is accepted with a DeprecationWarning."""
    current = FIELD_NAMES.get(name)
    if current is None:
        return name
    warn_renamed(name, current, stacklevel + 1)
    return current


def warn_renamed(old: str, new: str, stacklevel: int = 2) -> None:
    """Issue the DeprecationWarning of a renamed field, method or parameter."""
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=stacklevel + 1)


def plain_dict(settings: object) -> dict[str, object]:
    """Fields of a dataclass as plain data under their JSON keys, nested dataclasses included."""
    if not is_dataclass(settings) or isinstance(settings, type):
        raise TypeError(f"expected a dataclass instance, got {type(settings).__name__}")
    plain: dict[str, object] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        plain[json_key(item.name)] = plain_dict(value) if is_dataclass(value) else value
    return plain


def accept_former_names(*names: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: a dataclass also takes and has the given fields under their former names.

    Args:
        names: current field names, keys of :data:`JSON_KEYS`.
    """
    current = {JSON_KEYS[name]: name for name in names}

    def decorate(cls: type[T]) -> type[T]:
        generated: Callable[..., None] = cls.__init__

        def __init__(self: T, *args: object, **kwargs: object) -> None:
            # dataclasses.replace() passes all fields, so a former name overrides the current one.
            for old in current.keys() & kwargs.keys():
                warn_renamed(f"{cls.__name__}.{old}", f"{cls.__name__}.{current[old]}")
                kwargs[current[old]] = kwargs.pop(old)
            generated(self, *args, **kwargs)

        setattr(cls, "__init__", __init__)  # noqa: B010  # mypy rejects the assignment
        for old, new in current.items():
            setattr(cls, old, _former_attribute(cls.__name__, old, new))
        return cls

    return decorate


def _former_attribute(owner: str, old: str, new: str) -> property:
    def get(self: object) -> object:
        warn_renamed(f"{owner}.{old}", f"{owner}.{new}")
        return getattr(self, new)

    return property(get, doc=f"Deprecated: use {new}.")
