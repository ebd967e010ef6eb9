# SPDX-License-Identifier: Apache-2.0
"""Surroundings of the street: buildings, trees, hedges, lamps, signs and traffic lights."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from imp_trt.synthetic.draw import AHEAD, BACK, UP, Interval, Mesh, MeshBuilder, Point, facing_x, facing_z
from imp_trt.synthetic.palette import (
    FACADES,
    GLASS,
    GRASS,
    LEAVES,
    METAL,
    PAINTS,
    ROOFS,
    Color,
    Light,
    rgb,
)

HOUSE_DEPTH = 11.0
"""Depth of a building away from the street in meters."""
TREES = 64
"""Number of different trees."""

_BARK = rgb(92, 74, 60)
_POST = rgb(126, 130, 132)
_LIT_WINDOW = rgb(330, 280, 190)


def building(
    rng: np.random.Generator, light: Light, side: int, face: float, span: Interval, storeys: int
) -> tuple[MeshBuilder, float]:
    """A house along the street.

    Args:
        rng: random generator of colors and details.
        light: determines lit windows.
        side: 1 = on the right of the street, -1 = on the left.
        face: distance x of the facade from the street's axis, signed.
        span: z of its near and far end.
        storeys: number of floors, the ground floor included.

    Returns:
        The mesh in world coordinates, and the height of the eaves in meters.
    """
    near, far = span
    floor = rng.uniform(2.9, 3.4)
    ground = rng.uniform(3.4, 4.2)
    height = ground + floor * (storeys - 1) + 0.5
    wall = FACADES[rng.integers(len(FACADES))]
    modern = rng.random() < 0.25
    b = MeshBuilder()
    normal: Point = (-float(side), 0.0, 0.0)
    back = face + side * HOUSE_DEPTH
    end = facing_z(near, (face, back), (0.0, height))
    if not modern and storeys < 5:
        end.insert(3, ((face + back) / 2, height + 3.0, near))
    b.face(end, BACK, wall)
    slope = (-side * 0.48, 0.88, 0.0)
    ridge = (face + back) / 2
    if not modern:
        roof = ROOFS[rng.integers(len(ROOFS))]
        top = height + 3.0 if storeys < 5 else height + 1.2
        inner = ridge if storeys < 5 else face + side * 1.2
        points = [(face, height, near), (face, height, far), (inner, top, far), (inner, top, near)]
        b.face(points, slope if storeys < 5 else (normal[0] * 0.9, 0.43, 0.0), roof)
    b.face(facing_x(face, span, (0.0, height)), normal, wall)
    x = face - side * 0.03
    _band(b, x, span, (height - 0.4, height), normal, _toned(wall, 1.16))
    _storeys(b, rng, light, x, span, (ground, floor, storeys), normal, modern)
    if rng.random() < 0.6 and far - near > 6:
        _shop(b, rng, light, x, span, ground, normal)
    else:
        _front_doors(b, rng, x, span, normal)
    _end_windows(b, side, face, near, ground, floor, storeys)
    return b, height


def _band(
    b: MeshBuilder,
    x: float,
    z: Interval,
    y: Interval,
    normal: Point,
    color: Color,
    size: float = 0.2,
) -> None:
    b.face(facing_x(x, z, y), normal, color, inside=True, size=size)


def _storeys(
    b: MeshBuilder,
    rng: np.random.Generator,
    light: Light,
    x: float,
    span: Interval,
    sizes: tuple[float, float, int],
    normal: Point,
    modern: bool,
) -> None:
    """Rows of windows above the ground floor; some are lit at dusk."""
    near, far = span
    ground, floor, storeys = sizes
    columns = max(1, round((far - near) / rng.uniform(2.2, 3.2)))
    pitch = (far - near) / columns
    width = pitch * (0.86 if modern else rng.uniform(0.38, 0.55))
    low, high = (0.35, floor - 0.25) if modern else (0.8, floor - 0.55)
    dark: list[Point] = []
    bright: list[Point] = []
    sills: list[Point] = []
    lit = rng.random((max(storeys - 1, 0), columns)) < (0.35 if light.lamps else 0.16)
    for row in range(storeys - 1):
        bottom, top = ground + row * floor + low, ground + row * floor + high
        for column in range(columns):
            z0 = near + pitch * (column + 0.5) - width / 2
            z1 = z0 + width
            (bright if lit[row, column] else dark).extend(facing_x(x, (z0, z1), (bottom, top)))
            sills += facing_x(x, (z0 - 0.1, z1 + 0.1), (bottom - 0.14, bottom))
    b.quads(dark, normal, GLASS, size=0.5)
    b.quads(bright, normal, _LIT_WINDOW if light.lamps else rgb(118, 140, 156), size=0.5)
    if not modern:
        b.quads(sills, normal, rgb(222, 214, 198), size=0.1)


def _shop(
    b: MeshBuilder,
    rng: np.random.Generator,
    light: Light,
    x: float,
    span: Interval,
    ground: float,
    normal: Point,
) -> None:
    """A shop window, a signboard and maybe an awning in the same paints as cars and coats."""
    near, far = span
    paint, other = PAINTS[rng.integers(len(PAINTS))], PAINTS[rng.integers(len(PAINTS))]
    count = max(1, int((far - near) / 3.4))
    pitch = (far - near) / count
    panes: list[Point] = []
    for k in range(count):
        panes += facing_x(x, (near + k * pitch + 0.3, near + (k + 1) * pitch - 0.3), (0.45, 2.5))
    _band(b, x, (near + 0.05, far - 0.05), (0.0, ground - 0.1), normal, other, size=0.4)
    glow = light.lamps and rng.random() < 0.7
    b.quads(panes, normal, _LIT_WINDOW if glow else GLASS, size=0.4)
    _band(b, x, (near + 0.2, far - 0.2), (2.7, ground - 0.25), normal, paint, size=0.3)
    if rng.random() < 0.5:
        out = x + normal[0] * 1.1
        z0, z1 = near + 0.4, far - 0.4
        stripes = max(2, int((z1 - z0) / 0.9))
        for k in range(stripes):
            a, c = z0 + (z1 - z0) * k / stripes, z0 + (z1 - z0) * (k + 1) / stripes
            color = paint if k % 2 else rgb(232, 232, 226)
            points = [(x, 2.9, a), (x, 2.9, c), (out, 2.35, c), (out, 2.35, a)]
            b.face(points, (0.0, 0.0, 0.0), color, size=0.35)


def _front_doors(b: MeshBuilder, rng: np.random.Generator, x: float, span: Interval, normal: Point) -> None:
    near, far = span
    count = max(1, int((far - near) / 5.0))
    pitch = (far - near) / count
    paint = PAINTS[rng.integers(len(PAINTS))]
    panes: list[Point] = []
    for k in range(count):
        z = near + pitch * (k + 0.3)
        _band(b, x, (z, z + 1.0), (0.0, 2.2), normal, paint)
        for start in (z + 1.6, z + 3.0):
            if start + 1.0 < near + pitch * (k + 1):
                panes += facing_x(x, (start, start + 1.0), (1.0, 2.5))
    b.quads(panes, normal, GLASS, size=0.5)


def _end_windows(
    b: MeshBuilder, side: int, face: float, near: float, ground: float, floor: float, storeys: int
) -> None:
    panes: list[Point] = []
    z = near - 0.02
    for row in range(storeys - 1):
        y = ground + row * floor + 0.8
        for offset in (2.2, 5.2, 8.2):
            panes += facing_z(z, (face + side * offset, face + side * (offset + 1.1)), (y, y + 1.5))
    b.quads(panes, BACK, GLASS, size=0.5)


@lru_cache(maxsize=TREES)
def tree(variety: int) -> tuple[Mesh, float, float]:
    """One of the trees 0 to TREES - 1, unlit; also its height and the radius of its crown in meters."""
    rng = np.random.default_rng([1711, variety])
    leaf = LEAVES[rng.integers(len(LEAVES))]
    slender = rng.random() < 0.25
    trunk = rng.uniform(1.6, 2.6)
    radius = rng.uniform(0.9, 1.3) if slender else rng.uniform(1.5, 2.6)
    tall = radius * (rng.uniform(1.8, 2.4) if slender else rng.uniform(0.8, 1.1))
    middle = trunk + tall * 0.85
    b = MeshBuilder()
    b.limb((0, 0, 0), (0, middle, 0), 0.07 + 0.05 * radius, _BARK)
    for lean in (-0.5, 0.45):
        b.limb((0, trunk * 0.8, 0), (lean * radius, middle, 0), 0.07, _BARK, size=0.1)
    count = 26
    spots = rng.normal(size=(count, 3))
    spots *= (rng.random((count, 1)) ** 0.4) / np.linalg.norm(spots, axis=1, keepdims=True)
    sizes = rng.uniform(0.3, 0.5, count)
    jitter = rng.uniform(0.9, 1.1, count)
    for k in np.argsort(spots[:, 1]).tolist():
        x, y, z = spots[k].tolist()
        # Light comes from above: lower parts are in the shadow of the crown.
        tone = (0.66 + 0.24 * (y + 1)) * float(jitter[k])
        center = (x * radius * 0.75, middle + y * tall * 0.75, z * radius * 0.75)
        b.ball(center, float(sizes[k]) * radius, _toned(leaf, tone))
    for _ in range(34):
        angle, height = rng.uniform(0, 2 * math.pi), rng.uniform(-0.9, 1.0)
        ring = math.sqrt(max(0.0, 1 - height * height)) * rng.uniform(0.3, 1.0)
        center = (ring * math.cos(angle) * radius, middle + height * tall, ring * math.sin(angle) * radius)
        tone = (0.7 + 0.26 * (height + 1)) * rng.uniform(0.85, 1.18)
        b.ball(center, radius * rng.uniform(0.1, 0.2), _toned(leaf, tone), size=0.05)
    return b.template, middle + tall, radius


def hedge(rng: np.random.Generator, x: float, span: Interval, side: int) -> tuple[MeshBuilder, float]:
    """A clipped hedge along the pavement, in world coordinates, and its height in meters."""
    leaf = LEAVES[rng.integers(len(LEAVES))]
    near, far = span
    height, depth = rng.uniform(0.8, 1.6), side * 0.7
    b = MeshBuilder()
    b.face(facing_z(near, (x, x + depth), (0.0, height)), BACK, leaf)
    b.face(facing_x(x, span, (0.0, height)), (-float(side), 0.0, 0.0), leaf)
    top = [(x, height, near), (x, height, far), (x + depth, height, far), (x + depth, height, near)]
    b.face(top, UP, _toned(leaf, 1.1))
    count = int((far - near) * 2.2)
    for z, y, r, tone in zip(
        np.linspace(far, near, count).tolist(),
        rng.uniform(0.3, 1.0, count).tolist(),
        rng.uniform(0.16, 0.3, count).tolist(),
        rng.uniform(0.8, 1.12, count).tolist(),
        strict=True,
    ):
        b.ball((x, y * height, z), r, _toned(leaf, tone), size=0.05)
    return b, height


def bush(rng: np.random.Generator) -> tuple[MeshBuilder, float]:
    """A low shrub and its height in meters."""
    leaf = LEAVES[rng.integers(len(LEAVES))]
    radius = rng.uniform(0.5, 0.9)
    b = MeshBuilder()
    for k in range(12):
        x, z = rng.uniform(-0.8, 0.8, 2) * radius
        y = radius * (0.35 + 0.07 * k)
        tone = 0.72 + 0.04 * k
        b.ball((float(x), y, float(z)), radius * rng.uniform(0.35, 0.55), _toned(leaf, tone))
    return b, 1.6 * radius


def lamp_post(light: Light, side: int) -> tuple[MeshBuilder, float]:
    """A street lamp with an arm over the road, and its height in meters."""
    b = MeshBuilder()
    reach = -side * 1.7
    b.limb((0, 0, 0), (0, 1.1, 0), 0.11, _POST)
    b.path(((0, 0, 0), (0, 6.2, 0), (0.25 * reach, 6.75, 0), (reach, 6.9, 0)), 0.065, _POST)
    glow = rgb(400, 370, 300) if light.lamps else rgb(214, 214, 206)
    b.limb((reach * 0.85, 6.86, 0), (reach * 1.2, 6.88, 0), 0.11, glow)
    return b, 6.9


def sign_post(height: float) -> MeshBuilder:
    """The post of a sign."""
    b = MeshBuilder()
    b.limb((0, 0, 0.03), (0, height, 0.03), 0.045, _POST)
    return b


def sign_plate(rng: np.random.Generator, height: float) -> MeshBuilder:
    """A plate whose top is at ``height``: disc, triangle, octagon, diamond, square or board."""
    kind = int(rng.integers(6))
    first, second, third = (PAINTS[k] for k in rng.integers(len(PAINTS), size=3))
    radius = rng.uniform(0.36, 0.46)
    wide, tall = (radius * 1.9, radius * 1.15) if kind == 5 else (radius, radius)
    corners = (14, 3, 8, 4, 4, 4)[kind]
    start = (0.0, math.pi / 2, math.pi / 8, 0.0, math.pi / 4, math.pi / 4)[kind]
    stretch = math.sqrt(2) if kind >= 4 else 1.0
    y = height - tall
    b = MeshBuilder()

    def plate(scale: float, z: float) -> list[Point]:
        angles = [start + 2 * math.pi * k / corners for k in range(corners)]
        return [
            (wide * scale * stretch * math.cos(a), y + tall * scale * stretch * math.sin(a), z)
            for a in angles
        ]

    b.face(plate(1.0, 0.0), AHEAD, METAL)
    b.face(plate(1.0, 0.0), BACK, first)
    b.face(plate(0.8, -0.01), BACK, second, inside=True, size=0.15)
    mark = rng.integers(3)
    if mark == 0:
        bar = [(-0.5, -0.14), (0.5, -0.14), (0.5, 0.14), (-0.5, 0.14)]
    elif mark == 1:
        bar = [(-0.14, -0.45), (0.14, -0.45), (0.14, 0.45), (-0.14, 0.45)]
    else:
        bar = [(-0.35, -0.1), (0.0, 0.4), (0.35, -0.1), (0.0, -0.2)]
    points = [(u * wide, y + v * tall, -0.02) for u, v in bar]
    b.face(points, BACK, third, inside=True, size=0.2, convex=False)
    return b


def traffic_light(rng: np.random.Generator, height: float) -> MeshBuilder:
    """A box with three lamps, one of them on, whose top is at ``height``."""
    b = MeshBuilder()
    half, tall = 0.2, 1.0
    for normal in (AHEAD, BACK):
        b.face(facing_z(0.0, (-half, half), (height - tall, height)), normal, rgb(40, 42, 46))
    lit = int(rng.integers(3))
    for k, color in enumerate((rgb(188, 40, 38), rgb(232, 186, 38), rgb(34, 150, 84))):
        center_y = height - 0.18 - 0.32 * k
        angles = [2 * math.pi * j / 10 for j in range(10)]
        disc = [(0.12 * math.cos(a), center_y + 0.12 * math.sin(a), -0.02) for a in angles]
        b.face(disc, BACK, _toned(color, 1.9 if k == lit else 0.35), inside=True, size=0.15)
    return b


def verge_color(rng: np.random.Generator) -> Color:
    """Color of the grass next to the pavement."""
    return _toned(GRASS, rng.uniform(0.85, 1.12))


def _toned(color: Color, tone: float) -> Color:
    return (color[0] * tone, color[1] * tone, color[2] * tone)
