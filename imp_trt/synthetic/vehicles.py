# SPDX-License-Identifier: Apache-2.0
"""Cars, trucks and buses: the same paints, glass, tires and lights; only their shape differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from imp_trt.synthetic.draw import AHEAD, BACK, Interval, Mesh, MeshBuilder, Point, facing_x, facing_z
from imp_trt.synthetic.palette import GLASS, METAL, PAINTS, RUBBER, Color, Light, rgb

_TAIL_LAMP = rgb(188, 40, 38)
_HEAD_LAMP = rgb(236, 234, 220)
_PLATE = rgb(222, 216, 190)
_UNDERSIDE = rgb(40, 42, 46)

Profile = Sequence[tuple[float, float]]
"""Outline seen from the right: (z, y) pairs, counter-clockwise with z to the right and y up."""


class _Vehicle:
    """Primitives shared by all vehicles, around a body of a given half width."""

    def __init__(self, half: float, paint: Color, trim: Color, lit: bool) -> None:
        self.builder = MeshBuilder()
        self.half = half
        self.paint = paint
        self.trim = trim
        self.glow = 2.2 if lit else 1.0

    def wheels(self, places: Sequence[float], radius: float) -> None:
        """Ends of the tyres, as seen from ahead and behind; their discs come with :meth:`discs`."""
        for z in places:
            for side in (-1, 1):
                width = (side * (self.half - 0.24), side * (self.half - 0.01))
                for end, normal in ((-0.6, BACK), (0.6, AHEAD)):
                    self.builder.face(facing_z(z + end * radius, width, (0, radius)), normal, RUBBER)

    def discs(self, places: Sequence[float], radius: float) -> None:
        """Tyres and hubs on both sides."""
        for z in places:
            for side in (-1, 1):
                normal: Point = (float(side), 0.0, 0.0)
                self.builder.face(_wheel(side * (self.half + 0.01), z, radius, radius), normal, RUBBER)
                hub = _wheel(side * (self.half + 0.02), z, radius, radius * 0.55)
                self.builder.face(hub, normal, METAL, inside=True, size=0.3)

    def shell(
        self, profile: Profile, edges: Mapping[int, Color], taper: float = 0.0, waist: float = 0.0
    ) -> None:
        """The outline drawn across the width; ``edges`` gives single strips another color.

        Above the waist the body narrows by ``taper`` meters a side for each metre of height.
        """

        def width(y: float) -> float:
            return self.half - taper * max(0.0, y - waist)

        for index, (z0, y0) in enumerate(profile):
            z1, y1 = profile[(index + 1) % len(profile)]
            length = math.hypot(z1 - z0, y1 - y0)
            normal = (0.0, -(z1 - z0) / length, (y1 - y0) / length)
            a, b = width(y0), width(y1)
            points = [(-a, y0, z0), (a, y0, z0), (b, y1, z1), (-b, y1, z1)]
            self.builder.face(points, normal, edges.get(index, self.paint))
        for side in (-1, 1):
            points = [(side * width(y), y, z) for z, y in profile]
            self.builder.face(points, (float(side), 0.0, 0.0), self.paint, convex=False)

    def side(
        self, outline: Profile, color: Color, size: float = 0.25, taper: float = 0.0, waist: float = 0.0
    ) -> None:
        """A detail on both flanks."""
        for side in (-1, 1):
            points = [(side * (self.half + 0.005 - taper * max(0.0, y - waist)), y, z) for z, y in outline]
            self.builder.face(points, (float(side), 0.0, 0.0), color, inside=True, size=size)

    def across(self, z: float, x: Interval, y: Interval, color: Color, size: float = 0.2) -> None:
        """A rectangle on the front (z > 0) or the rear (z < 0)."""
        normal = AHEAD if z > 0 else BACK
        self.builder.face(facing_z(z + math.copysign(0.01, z), x, y), normal, color, inside=True, size=size)

    def lamps(self, front: float, rear: float, y: float, width: float, height: float) -> None:
        """Head and tail lamps in the corners, and number plates."""
        for z, color in ((rear, _TAIL_LAMP), (front, _HEAD_LAMP)):
            glowing = tuple(min(c * self.glow, 400.0) for c in color)
            for side in (-1, 1):
                outer, inner = side * (self.half - 0.05), side * (self.half - 0.05 - width)
                self.across(z, (inner, outer), (y, y + height), (glowing[0], glowing[1], glowing[2]), 0.12)
            self.across(z, (-0.26, 0.26), (y - 0.22, y - 0.1), _PLATE, 0.12)

    def decals(self, rng: np.random.Generator, z: Interval, y: Interval) -> None:
        """Nothing, a band or slanted stripes in the trim color, within a rectangle of the flanks."""
        kind, low, high = rng.integers(4), y[0], y[1]
        if kind == 0:
            self.side([(z[0], low), (z[1], low), (z[1], high), (z[0], high)], self.trim)
        elif kind == 1:
            step = (high - low) * 0.6
            for start in np.arange(z[0], z[1] - 2.2 * step, 2 * step).tolist():
                slant = [(start, low), (start + step, low), (start + 2 * step, high), (start + step, high)]
                self.side(slant, self.trim)


def car(rng: np.random.Generator, light: Light) -> tuple[MeshBuilder, tuple[float, float, float]]:
    """A saloon, hatchback, estate or off-roader, and its length, width and height in meters."""
    kind = rng.integers(4)
    length = rng.uniform(3.8, 4.2) if kind == 1 else rng.uniform(4.3, 4.8)
    height = rng.uniform(1.62, 1.78) if kind == 3 else rng.uniform(1.4, 1.5)
    half = rng.uniform(0.86, 0.93)
    front, rear = length / 2, -length / 2
    waist = 0.62 * height
    screen, roof_front = front - 1.25, front - 1.95
    roof_rear = (rear + 1.05, rear + 0.55, rear + 0.3, rear + 0.3)[kind]
    rear_base = (rear + 0.5, rear + 0.06, rear + 0.06, rear + 0.06)[kind]
    low = 0.34 if kind == 3 else 0.26
    profile = [
        (rear, low), (front, low), (front, 0.68), (front - 0.18, waist - 0.14), (screen, waist + 0.02),
        (roof_front, height), (roof_rear, height), (rear_base, waist), (rear, waist - 0.02),
    ]  # fmt: skip
    paint, trim = _two_paints(rng)
    body = _Vehicle(half, paint, trim, light.lamps)
    wheels, radius = (rear + 0.78, front - 0.82), (0.36 if kind == 3 else 0.31)
    body.wheels(wheels, radius)
    body.shell(profile, {0: _UNDERSIDE, 4: GLASS, 6: GLASS}, taper=0.28, waist=waist)
    sill = waist + 0.03
    top = height - 0.09
    middle = (roof_front + roof_rear) / 2 - 0.1
    panes = [
        [(middle + 0.05, sill), (screen - 0.18, sill), (roof_front - 0.06, top), (middle + 0.05, top)],
        [(rear_base + 0.35, sill), (middle - 0.05, sill), (middle - 0.05, top), (roof_rear + 0.12, top)],
    ]
    for pane in panes:
        body.side(pane, GLASS, taper=0.28, waist=waist)
    body.decals(rng, (rear + 0.3, front - 0.4), (0.44, 0.56))
    body.lamps(front, rear, 0.56 if kind < 2 else 0.6, 0.34, 0.14)
    body.across(rear, (-half + 0.05, half - 0.05), (low, low + 0.14), _UNDERSIDE)
    body.across(front, (-half + 0.3, half - 0.3), (low + 0.04, low + 0.18), _UNDERSIDE)
    body.discs(wheels, radius)
    return body.builder, (length, 2 * half, height)


def truck(
    rng: np.random.Generator, light: Light
) -> tuple[list[tuple[MeshBuilder, float]], tuple[float, float, float]]:
    """A cab and a box on a chassis, each with the z of its middle, and length, width and height."""
    length, height, half = rng.uniform(6.2, 9.0), rng.uniform(3.1, 3.8), rng.uniform(1.15, 1.25)
    front, rear = length / 2, -length / 2
    cab_rear, cab_height = front - rng.uniform(1.7, 2.1), rng.uniform(2.35, 2.8)
    paint, trim = _two_paints(rng)
    radius = 0.48
    cab = _Vehicle(half, paint, trim, light.lamps)
    cab.wheels((front - 0.75,), radius)
    profile = [(cab_rear, 0.45), (front, 0.45), (front, 1.35), (front - 0.22, cab_height - 0.1),
               (front - 0.45, cab_height), (cab_rear, cab_height)]  # fmt: skip
    cab.shell(profile, {0: _UNDERSIDE, 2: GLASS})
    cab.side([(cab_rear + 0.5, 1.4), (front - 0.12, 1.4), (front - 0.3, cab_height - 0.25),
              (cab_rear + 0.5, cab_height - 0.25)], GLASS)  # fmt: skip
    cab.lamps(front, cab_rear, 0.72, 0.34, 0.2)
    cab.across(front, (-half + 0.35, half - 0.35), (0.9, 1.25), _UNDERSIDE)
    cab.discs((front - 0.75,), radius)

    load = _Vehicle(
        half, paint if rng.random() < 0.35 else PAINTS[rng.integers(len(PAINTS))], trim, light.lamps
    )
    axles = (rear + 1.0,) if length < 7.2 else (rear + 0.9, rear + 2.0)
    load.wheels(axles, radius)
    inner = half - 0.1
    load.builder.face(facing_z(rear, (inner, -inner), (0.5, 1.0)), BACK, _UNDERSIDE)
    for side in (-1, 1):
        beam = facing_x(side * (half - 0.05), (rear, cab_rear), (0.62, 1.0))
        load.builder.face(beam, (float(side), 0.0, 0.0), _UNDERSIDE)
    box_front = cab_rear - 0.18
    load.shell([(rear, 0.95), (box_front, 0.95), (box_front, height), (rear, height)], {0: _UNDERSIDE})
    middle, reach = (rear + box_front) / 2, (box_front - rear) * rng.uniform(0.2, 0.38)
    base = 0.95 + (height - 0.95) * rng.uniform(0.2, 0.45)
    load.decals(rng, (middle - reach, middle + reach), (base, base + (height - 0.95) * rng.uniform(0.2, 0.4)))
    for x in (-half + 0.06, -0.02, half - 0.1):
        load.across(rear, (x, x + 0.04), (1.0, height - 0.06), METAL, 0.06)
    load.lamps(box_front, rear, 0.66, 0.3, 0.14)
    load.discs(axles, radius)
    return [(load.builder, middle), (cab.builder, (front + cab_rear) / 2)], (length, 2 * half, height)


def bus(rng: np.random.Generator, light: Light) -> tuple[MeshBuilder, tuple[float, float, float]]:
    """A city bus, sometimes with two decks, and its length, width and height in meters."""
    double = rng.random() < 0.25
    length, half = rng.uniform(8.6, 11.5), rng.uniform(1.18, 1.27)
    height = rng.uniform(4.0, 4.3) if double else rng.uniform(2.9, 3.2)
    front, rear = length / 2, -length / 2
    paint, trim = _two_paints(rng)
    body = _Vehicle(half, paint, trim, light.lamps)
    wheels, radius = (rear + rng.uniform(2.0, 2.8), front - rng.uniform(2.0, 2.6)), 0.48
    body.wheels(wheels, radius)
    profile = [(rear, 0.32), (front, 0.32), (front, 1.1), (front - 0.12, height - 0.1),
               (front - 0.3, height), (rear + 0.2, height), (rear, height - 0.2)]  # fmt: skip
    body.shell(profile, {0: _UNDERSIDE})
    decks = [(1.25, 2.15), (2.75, 3.6)] if double else [(1.3, height - 0.55)]
    count = int(rng.integers(5, 8))
    pitch = (length - 0.7) / count
    for low, high in decks:
        for k in range(count):
            start = rear + 0.35 + k * pitch
            pane = [(start, low), (start + pitch - 0.14, low), (start + pitch - 0.14, high), (start, high)]
            body.side(pane, GLASS)
        body.across(front - 0.06, (-half + 0.12, half - 0.12), (low - 0.1, high + 0.1), GLASS)
        body.across(rear, (-half + 0.25, half - 0.25), (low + 0.1, high), GLASS)
    for back in (0.9, 4.6):
        edge = front - back
        door = facing_x(half + 0.008, (edge - 1.1, edge), (0.4, 2.15))
        body.builder.face(door, (1.0, 0.0, 0.0), GLASS, inside=True, size=0.3)
    body.decals(rng, (rear + 0.3, front - 0.3), (0.62, 1.05))
    display = tuple(min(c * body.glow, 400.0) for c in rgb(232, 186, 38))
    body.across(
        front - 0.02, (-0.7, 0.7), (height - 0.4, height - 0.18), (display[0], display[1], display[2])
    )
    body.lamps(front, rear, 0.66, 0.34, 0.18)
    body.discs(wheels, radius)
    return body.builder, (length, 2 * half, height)


def place(
    parts: Sequence[tuple[MeshBuilder, float]],
    light: Light,
    position: Point,
    heading: float,
) -> tuple[Mesh, ...]:
    """The parts of a vehicle in the world, the part that is farther down the street first."""
    ahead = math.cos(heading) - 0.2 * math.sin(heading) * math.copysign(1.0, -position[0])
    ordered = sorted(parts, key=lambda part: -part[1] * math.copysign(1.0, ahead))
    return tuple(builder.build(light, position, heading) for builder, _ in ordered)


def _two_paints(rng: np.random.Generator) -> tuple[Color, Color]:
    first, second = rng.choice(len(PAINTS), 2, replace=False)
    return PAINTS[first], PAINTS[second]


def _wheel(x: float, z: float, axle: float, radius: float) -> list[Point]:
    angles = [2 * math.pi * k / 14 for k in range(14)]
    return [(x, axle + radius * math.sin(a), z + radius * math.cos(a)) for a in angles]
