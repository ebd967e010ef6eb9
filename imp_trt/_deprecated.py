# SPDX-License-Identifier: Apache-2.0
"""Old names of parameters and fields: accepted for one more version, with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def renamed_parameters(**renamed: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: accept keyword arguments under their old names.

    Args:
        renamed: old name -> new name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in renamed.items():
                if old in kwargs:
                    _warn(f"parameter {old!r} of {function.__qualname__}", repr(new))
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_fields(**renamed: str) -> Callable[[type[T]], type[T]]:
    """Class decorator for dataclasses: old field names work as arguments and as attributes.

    Args:
        renamed: old name -> new name.
    """

    def decorate(cls: type[T]) -> type[T]:
        setattr(cls, "__init__", renamed_parameters(**renamed)(getattr(cls, "__init__")))  # noqa: B010, B009
        for old, new in renamed.items():
            setattr(cls, old, property(functools.partial(_read, old, new)))
        return cls

    return decorate


def _read(old: str, new: str, instance: object) -> object:
    _warn(f"{type(instance).__name__}.{old}", repr(new))
    return getattr(instance, new)


def _warn(old: str, new: str) -> None:
    # The caller of the function or attribute: above this function and its wrapper.
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=3)
