"""How long work reports where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as the work goes on: stage (export, calibrate, parse, build, verify), steps done, steps in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""
