# SPDX-License-Identifier: Apache-2.0
"""Classes, paints and light of the synthetic street scenes.

All things share one list of paints: cars, buses, coats and signs have the same colors, so
that the color does not reveal the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable

_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (  # name, RGB
    ("sky", (70, 130, 180)),
    ("building", (90, 90, 90)),
    ("road", (128, 64, 128)),
    ("pavement", (244, 140, 200)),
    ("vegetation", (107, 142, 35)),
    ("pole", (190, 190, 170)),
    ("sign", (250, 220, 0)),
    ("person", (230, 25, 60)),
    ("cyclist", (255, 128, 20)),
    ("car", (30, 70, 230)),
    ("truck", (0, 190, 200)),
    ("bus", (150, 60, 220)),
)
SCENE_CLASSES = ClassTable(
    names=tuple(name for name, _ in _CLASSES),
    things=(6, 7, 8, 9, 10, 11),
    palette=tuple(color for _, color in _CLASSES),
)
SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, POLE, SIGN, PERSON, CYCLIST, CAR, TRUCK, BUS = range(12)

Color = tuple[float, float, float]
"""Blue, green, red, 0-255."""


def rgb(red: float, green: float, blue: float) -> Color:
    """A BGR color from RGB values."""
    return (blue, green, red)


def colors(codes: str) -> tuple[Color, ...]:
    """Colors from hexadecimal RGB codes with spaces between them."""
    return tuple(rgb(*bytes.fromhex(code)) for code in codes.split())


PAINTS = colors("e8e8e2 b0b5ba 3a3d42 bc2826 26529e 22704a e8ba26 de7228 2c8e9e d0a884 7a543c 763e80")
"""Body paint, cloth, plates, awnings."""

SKIN = colors("e2b696 d0a884 a07050 7a543c")
HAIR = colors("3a2c26 242428 7a543c b0966e")
GLASS = rgb(62, 78, 92)
RUBBER = rgb(34, 35, 38)
METAL = rgb(120, 124, 128)
FACADES = colors("a85c46 cec0a6 be9676 96989c ded6c6 8e6e5c b0babe ceaa78")
ROOFS = colors("703e32 4e5058 62544a")
LEAVES = colors("4a7630 608634 366238 868a32")
GRASS = rgb(104, 138, 64)
ASPHALT = rgb(112, 113, 118)
SLABS = rgb(168, 162, 154)
KERB = rgb(196, 192, 186)
PAINTED_LINE = rgb(226, 226, 220)


@dataclass(frozen=True)
class Light:
    """One kind of daylight.

    Attributes:
        sun: [3] unit vector towards the sun (x right, y up, z forward).
        sun_color, ambient: [3] BGR gain of direct and scattered light.
        zenith, horizon: [3] BGR of the sky, 0-255.
        shadow: how much of the light a shadow on the ground takes, 0-1.
        haze: share of the horizon's color that distance adds per metre (exponential).
        clouds: cover, 0-1.
        lamps: whether windows and headlights are lit.
    """

    sun: NDArray[np.float64]
    sun_color: NDArray[np.float64]
    ambient: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    shadow: float
    haze: float
    clouds: float
    lamps: bool

    def shade(self, normals: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 3] gain of faces with the unit normals [N, 3]; a zero normal is half lit."""
        facing = np.maximum(normals @ self.sun, 0.0)
        unoriented = ~normals.any(axis=1)
        facing[unoriented] = 0.55
        return np.asarray(self.ambient + facing[:, None] * self.sun_color, np.float64)


_SKIES = (
    # sun gain, ambient gain, zenith, horizon, elevation range, shadow, haze, clouds, lamps
    (
        (0.62, 0.64, 0.66),
        (0.64, 0.61, 0.59),
        (92, 142, 206),
        (196, 214, 230),
        (30, 62),
        0.36,
        3.0e-3,
        0.45,
        0,
    ),
    (
        (0.30, 0.30, 0.30),
        (0.80, 0.79, 0.78),
        (150, 160, 172),
        (206, 208, 210),
        (40, 65),
        0.14,
        5.5e-3,
        0.9,
        0,
    ),
    ((0.40, 0.58, 0.76), (0.64, 0.60, 0.60), (98, 126, 186), (250, 206, 158), (16, 26), 0.28, 4.5e-3, 0.5, 0),
    ((0.16, 0.17, 0.22), (0.72, 0.63, 0.61), (66, 84, 140), (232, 172, 150), (15, 25), 0.10, 5.0e-3, 0.5, 1),
)
_SKY_SHARES = (0.46, 0.2, 0.22, 0.12)


def random_light(rng: np.random.Generator) -> Light:
    """Clear, overcast, evening or dusk light, with the sun somewhere in the sky."""
    kind = int(rng.choice(len(_SKIES), p=_SKY_SHARES))
    sun, ambient, zenith, horizon, elevations, shadow, haze, clouds, lamps = _SKIES[kind]
    elevation = np.deg2rad(rng.uniform(*elevations))
    azimuth = rng.uniform(0, 2 * np.pi)
    exposure = rng.uniform(0.97, 1.15)
    flat = np.cos(elevation)
    return Light(
        sun=np.array([flat * np.sin(azimuth), np.sin(elevation), flat * np.cos(azimuth)]),
        sun_color=np.array(sun) * exposure,
        ambient=np.array(ambient) * exposure,
        zenith=np.array(zenith[::-1], np.float64),
        horizon=np.array(horizon[::-1], np.float64),
        shadow=shadow,
        haze=haze * rng.uniform(0.6, 1.5),
        clouds=float(np.clip(clouds * rng.uniform(0.5, 1.4), 0, 1)),
        lamps=bool(lamps),
    )
