# SPDX-License-Identifier: Apache-2.0
"""Number formatting."""

from __future__ import annotations


def signed(value: float) -> str:
    """A difference with sign and one decimal; the minus sign is U+2212."""
    rounded = f"{abs(value):.1f}"
    if rounded == "0.0":
        return rounded
    return f"{'+' if value > 0 else chr(0x2212)}{rounded}"
