# SPDX-License-Identifier: Apache-2.0
"""Parameters of slow tests, of which the suite usually runs some."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def variants(values: Iterable[Any], usual: Container[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`; those that are not usual are marked exhaustive."""
    return [pytest.param(value, marks=() if value in usual else pytest.mark.exhaustive) for value in values]
