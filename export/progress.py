# SPDX-License-Identifier: Apache-2.0
"""Progress callbacks of long operations."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with stage (export, calibrate, parse, build, verify), completed steps and total steps."""


def silent(stage: str, done: int, total: int) -> None:
    """Does nothing."""
