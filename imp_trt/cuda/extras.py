# SPDX-License-Identifier: Apache-2.0
"""Which extra of the package fits a driver."""

from __future__ import annotations

_EXTRAS = {
    12: {"cuda": "cuda12", "tensorrt": "tensorrt-cu12", "tensorrt-rtx": "tensorrt-rtx-cu12"},
    13: {"cuda": "cuda13", "tensorrt": "tensorrt-cu13"},
}


def extra_for(name: str, driver: tuple[int, int] | None) -> str:
    """The extra of imp-trt that is the variant of `name` for a driver; `name` if there is none.

    Args:
        name: "cuda", "tensorrt" or "tensorrt-rtx".
        driver: newest CUDA version that the driver supports, (12, 8).
    """
    return name if driver is None else _EXTRAS.get(min(driver[0], 13), {}).get(name, name)
