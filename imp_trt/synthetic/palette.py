# SPDX-License-Identifier: Apache-2.0
"""Classes, paints and light of the procedural streets.

All things share one list of paints: cars, buses, coats and signs have the same colors, so
that the color does not reveal the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imp_trt.classes import ClassTable

SCENE_CLASSES = ClassTable(
    names=(
        "sky",
        "building",
        "road",
        "pavement",
        "vegetation",
        "pole",
        "sign",
        "person",
        "cyclist",
        "car",
        "truck",
        "bus",
    ),
    things=(6, 7, 8, 9, 10, 11),
    palette=(
        (70, 130, 180),
        (90, 90, 90),
        (128, 64, 128),
        (244, 140, 200),
        (107, 142, 35),
        (190, 190, 170),
        (250, 220, 0),
        (230, 25, 60),
        (255, 128, 20),
        (30, 70, 230),
        (0, 190, 200),
        (150, 60, 220),
    ),
)
SKY, BUILDING, ROAD, PAVEMENT, VEGETATION, POLE, SIGN, PERSON, CYCLIST, CAR, TRUCK, BUS = range(12)

Color = tuple[float, float, float]
"""Blue, green, red, 0-255."""


def rgb(red: float, green: float, blue: float) -> Color:
    """A BGR color from RGB values."""
    return (blue, green, red)


PAINTS: tuple[Color, ...] = (
    rgb(232, 232, 226),
    rgb(176, 181, 186),
    rgb(58, 61, 66),
    rgb(188, 40, 38),
    rgb(38, 82, 158),
    rgb(34, 112, 74),
    rgb(232, 186, 38),
    rgb(222, 114, 40),
    rgb(44, 142, 158),
    rgb(208, 168, 132),
    rgb(122, 84, 60),
    rgb(118, 62, 128),
)
"""Body paint, cloth, plates, awnings."""

SKIN: tuple[Color, ...] = (rgb(226, 182, 150), rgb(208, 168, 132), rgb(160, 112, 80), rgb(122, 84, 60))
HAIR: tuple[Color, ...] = (rgb(58, 44, 38), rgb(36, 36, 40), rgb(122, 84, 60), rgb(176, 150, 110))
GLASS = rgb(62, 78, 92)
RUBBER = rgb(34, 35, 38)
METAL = rgb(120, 124, 128)
FACADES: tuple[Color, ...] = (
    rgb(168, 92, 70),
    rgb(206, 192, 166),
    rgb(190, 150, 118),
    rgb(150, 152, 156),
    rgb(222, 214, 198),
    rgb(142, 110, 92),
    rgb(176, 186, 190),
    rgb(206, 170, 120),
)
ROOFS: tuple[Color, ...] = (rgb(112, 62, 50), rgb(78, 80, 88), rgb(98, 84, 74))
LEAVES: tuple[Color, ...] = (rgb(74, 118, 48), rgb(96, 134, 52), rgb(54, 98, 56), rgb(134, 138, 50))
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
        0.0030,
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
        0.0055,
        0.9,
        0,
    ),
    ((0.40, 0.58, 0.76), (0.64, 0.60, 0.60), (98, 126, 186), (250, 206, 158), (16, 26), 0.28, 0.0045, 0.5, 0),
    ((0.16, 0.17, 0.22), (0.72, 0.63, 0.61), (66, 84, 140), (232, 172, 150), (15, 25), 0.10, 0.0050, 0.5, 1),
)
_SKY_SHARES = (0.46, 0.2, 0.22, 0.12)


def random_light(rng: np.random.Generator) -> Light:
    """Clear, overcast, evening or dusk light, with the sun somewhere in the sky."""
    kind = int(rng.choice(len(_SKIES), p=_SKY_SHARES))
    sun, ambient, zenith, horizon, elevations, shadow, haze, clouds, lamps = _SKIES[kind]
    elevation = np.deg2rad(rng.uniform(*elevations))
    azimuth = rng.uniform(0, 2 * np.pi)
    exposure = rng.uniform(0.97, 1.15)
    return Light(
        sun=np.array(
            [
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
                np.cos(elevation) * np.cos(azimuth),
            ]
        ),
        sun_color=np.array(sun) * exposure,
        ambient=np.array(ambient) * exposure,
        zenith=np.array(zenith[::-1], np.float64),
        horizon=np.array(horizon[::-1], np.float64),
        shadow=shadow,
        haze=haze * rng.uniform(0.6, 1.5),
        clouds=float(np.clip(clouds * rng.uniform(0.5, 1.4), 0, 1)),
        lamps=bool(lamps),
    )
