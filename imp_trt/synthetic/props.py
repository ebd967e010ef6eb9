# SPDX-License-Identifier: Apache-2.0
"""Single props of a street: meshes placed and lit, with footprints for painter's order and shadows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from imp_trt.synthetic import people, surroundings, vehicles
from imp_trt.synthetic.draw import Mesh, MeshBuilder
from imp_trt.synthetic.palette import (
    BUILDING,
    CAR,
    CYCLIST,
    PERSON,
    POLE,
    SIGN,
    TRUCK,
    VEGETATION,
    Light,
)

Box = tuple[float, float, float, float]
"""Footprint (x0, z0, x1, z1) in meters."""


@dataclass(frozen=True)
class Prop:
    """An object that is rendered as a whole.

    Attributes:
        label: class.
        meshes: parts, far to near.
        box: footprint.
        height: height in meters, for the shadow.
        crown: radius of a tree's crown, for the shadow; 0 for other objects.
    """

    label: int
    meshes: tuple[Mesh, ...]
    box: Box
    height: float
    crown: float = 0.0


def house(
    rng: np.random.Generator, light: Light, side: int, face: float, span: tuple[float, float], storeys: int
) -> list[Prop]:
    """A building on one side of the street; arguments as in :func:`surroundings.building`."""
    builder, height = surroundings.building(rng, light, side, face, span, storeys)
    left, right = sorted((face, face + side * surroundings.HOUSE_DEPTH))
    return [Prop(BUILDING, (builder.build(light),), (left, span[0], right, span[1]), height)]


def tree(rng: np.random.Generator, light: Light, x: float, z: float) -> list[Prop]:
    """A tree with its trunk at (x, z)."""
    template, height, radius = surroundings.tree(int(rng.integers(surroundings.TREES)))
    mesh = template.placed(light, (x, 0.0, z), rng.uniform(0, 2 * math.pi))
    return [Prop(VEGETATION, (mesh,), _around(x, z, 0.3, 0.3), height, radius)]


def hedge(
    rng: np.random.Generator, light: Light, x: float, span: tuple[float, float], side: int
) -> list[Prop]:
    """A hedge along the street."""
    builder, height = surroundings.hedge(rng, x, span, side)
    left, right = sorted((x, x + 0.7 * side))
    return [Prop(VEGETATION, (builder.build(light),), (left, span[0], right, span[1]), height)]


def bush(rng: np.random.Generator, light: Light, x: float, z: float) -> list[Prop]:
    """A shrub."""
    builder, height = surroundings.bush(rng)
    return [Prop(VEGETATION, (builder.build(light, (x, 0.0, z)),), _around(x, z, 0.6, 0.6), height)]


def lamp(rng: np.random.Generator, light: Light, x: float, z: float, side: int) -> list[Prop]:
    """A street lamp."""
    builder, height = surroundings.lamp_post(light, side)
    return [_slim(POLE, builder, light, x, z, height)]


def sign(
    rng: np.random.Generator, light: Light, edge: float, z: float, side: int, lights: bool
) -> list[Prop]:
    """A post at the kerb with a traffic light or one or two plates."""
    x = edge + side * rng.uniform(0.4, 0.7)
    height = rng.uniform(2.5, 3.0)
    if lights:
        plates = [surroundings.traffic_light(rng, height + 0.3)]
    else:
        plates = [surroundings.sign_plate(rng, height)]
        if rng.random() < 0.25:
            plates.append(surroundings.sign_plate(rng, height - 0.95))
    post = _slim(POLE, surroundings.sign_post(height), light, x, z, height)
    return [post, *(_slim(SIGN, plate, light, x, z - 0.06, height) for plate in plates)]


def person(
    rng: np.random.Generator, light: Light, x: float, z: float, heading: float, phase: float
) -> list[Prop]:
    """A pedestrian; heading and step in radians."""
    builder, height = people.person(rng, phase, math.cos(heading) > 0)
    mesh = builder.build(light, (x, 0.0, z), heading)
    return [Prop(PERSON, (mesh,), _around(x, z, 0.22, 0.22), height)]


def cyclist(
    rng: np.random.Generator, light: Light, x: float, z: float, heading: float, phase: float
) -> list[Prop]:
    """A cyclist; heading and pedals in radians."""
    builder, height = people.cyclist(rng, phase, math.cos(heading) > 0)
    mesh = builder.build(light, (x, 0.0, z), heading)
    return [Prop(CYCLIST, (mesh,), _around(x, z, 0.28, 0.85), height)]


def vehicle(
    rng: np.random.Generator, light: Light, label: int, x: float, z: float, heading: float
) -> list[Prop]:
    """A car, truck or bus (label) along or across the street."""
    if label == TRUCK:
        parts, (length, width, height) = vehicles.truck(rng, light)
    else:
        builder, (length, width, height) = (vehicles.car if label == CAR else vehicles.bus)(rng, light)
        parts = [(builder, 0.0)]
    meshes = vehicles.place(parts, light, (x, 0.0, z), heading)
    half = (width / 2, length / 2) if abs(math.cos(heading)) > 0.5 else (length / 2, width / 2)
    return [Prop(label, meshes, _around(x, z, *half), height)]


def _slim(label: int, builder: MeshBuilder, light: Light, x: float, z: float, height: float) -> Prop:
    return Prop(label, (builder.build(light, (x, 0.0, z)),), _around(x, z, 0.08, 0.05), height)


def _around(x: float, z: float, dx: float, dz: float) -> Box:
    return x - dx, z - dz, x + dx, z + dz
