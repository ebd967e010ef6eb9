# SPDX-License-Identifier: Apache-2.0
"""People on foot and on bicycles, drawn as limbs between joints; clothes share the vehicles' paints."""

from __future__ import annotations

import math

import numpy as np

from imp_trt.synthetic.draw import MeshBuilder, Point
from imp_trt.synthetic.palette import HAIR, METAL, PAINTS, RUBBER, SKIN, Color


def person(rng: np.random.Generator, phase: float, away: bool) -> tuple[MeshBuilder, float]:
    """A walking person.

    Args:
        rng: random generator of build and clothes.
        phase: phase of the step in radians; the legs are together at 0.
        away: whether the back faces the viewer (a backpack is rendered over or under it).

    Returns:
        The mesh, and the height in meters.
    """
    height = rng.uniform(1.56, 1.9) if rng.random() < 0.88 else rng.uniform(1.0, 1.35)
    s = height / 1.75
    picks = rng.integers(len(PAINTS), size=4)
    shirt, trousers, shoes, extra = (PAINTS[k] for k in picks)
    skin, hair = SKIN[rng.integers(len(SKIN))], HAIR[rng.integers(len(HAIR))]
    build = rng.uniform(0.85, 1.2)
    wear = rng.random(4)
    b = MeshBuilder()
    swing = math.sin(phase)
    for side in (-1, 1):
        reach = 0.36 * swing * side
        lift = 0.08 * max(0.0, math.cos(phase) * side)
        hip: Point = (0.09 * s * side, 0.92 * s, 0.0)
        knee: Point = (0.1 * s * side, 0.5 * s, (0.5 * reach + 0.05) * s)
        foot: Point = (0.1 * s * side, (0.07 + lift) * s, reach * s)
        b.path((hip, knee, foot), 0.082 * s * build, trousers)
        toe: Point = (foot[0], foot[1] - 0.02 * s, foot[2] + 0.13 * s)
        b.limb(foot, toe, 0.055 * s, shoes, size=0.06)
    if wear[0] < 0.3 and not away:
        b.limb((0, 1.1 * s, -0.2 * s), (0, 1.38 * s, -0.2 * s), 0.15 * s, extra)
    torso = 0.165 * s * build
    b.limb((0, 1.0 * s, 0), (0, 1.36 * s, 0), torso, shirt)
    b.limb((-0.12 * s, 1.4 * s, 0), (0.12 * s, 1.4 * s, 0), 0.085 * s * build, shirt)
    if wear[1] < 0.3:  # a skirt or a long coat
        b.limb((0, 0.98 * s, 0), (0, (0.62 if wear[2] < 0.5 else 0.75) * s, 0), torso * 1.12, shirt)
    if wear[2] < 0.35:
        b.limb((-0.1 * s, 1.18 * s, 0), (0.1 * s, 1.18 * s, 0), 0.05 * s, extra, size=0.05)
    for side in (-1, 1):
        reach = -0.28 * swing * side
        shoulder: Point = (0.2 * s * build * side, 1.4 * s, 0.0)
        elbow: Point = (0.25 * s * build * side, 1.14 * s, (0.4 * reach - 0.03) * s)
        hand: Point = (0.25 * s * build * side, 0.9 * s, reach * s)
        b.path((shoulder, elbow, hand), 0.055 * s * build, shirt)
        b.ball(hand, 0.052 * s, skin, size=0.05)
    if wear[3] < 0.25:
        b.limb((0.3 * s, 0.62 * s, 0.05), (0.3 * s, 0.76 * s, 0.05), 0.12 * s, extra)
    if wear[0] < 0.3 and away:
        b.limb((0, 1.1 * s, -0.2 * s), (0, 1.36 * s, -0.2 * s), 0.16 * s, extra)
    _head(b, (0.0, 1.62 * s, 0.02 * s), 0.105 * s, skin, hair, away)
    return b, height


def cyclist(rng: np.random.Generator, phase: float, away: bool) -> tuple[MeshBuilder, float]:
    """A person riding a bicycle; arguments and result as in :func:`person`."""
    picks = rng.integers(len(PAINTS), size=4)
    shirt, trousers, frame, helmet = (PAINTS[k] for k in picks)
    skin = SKIN[rng.integers(len(SKIN))]
    b = MeshBuilder()
    rear, front, radius = -0.52, 0.55, 0.34
    for z in (rear, front):
        ring = [
            (0.0, radius + radius * math.sin(a), z + radius * math.cos(a))
            for a in np.linspace(0, 2 * math.pi, 17).tolist()
        ]
        b.path(ring, 0.032, RUBBER)
    crank: Point = (0.0, 0.3, 0.0)
    saddle: Point = (0.0, 0.95, -0.18)
    head: Point = (0.0, 0.9, 0.42)
    bars: Point = (0.0, 1.04, 0.42)
    for path in (
        ((0.0, radius, rear), crank, head),
        ((0.0, radius, rear), (0.0, 0.72, -0.12), head),
        (crank, saddle),
        (bars, head, (0.0, radius, front)),
    ):
        b.path(path, 0.026, frame)
    b.limb((-0.27, 1.06, 0.4), (0.27, 1.06, 0.4), 0.022, METAL)
    lean = rng.uniform(0.2, 0.34)
    hip: Point = (0.0, 1.0, -0.16)
    neck: Point = (0.0, 1.48, -0.16 + lean)
    for side in (-1, 1):
        turn = phase + (math.pi if side > 0 else 0.0)
        pedal: Point = (0.11 * side, 0.3 + 0.16 * math.sin(turn), 0.16 * math.cos(turn))
        knee: Point = (0.12 * side, (pedal[1] + hip[1]) / 2 + 0.1, 0.24)
        b.path(((0.1 * side, hip[1], hip[2]), knee, pedal), 0.075, trousers)
    b.limb(hip, neck, 0.16, shirt)
    b.limb((-0.12, neck[1] - 0.02, neck[2]), (0.12, neck[1] - 0.02, neck[2]), 0.085, shirt)
    if rng.random() < 0.3:
        b.limb((0, 1.12, -0.2), (0, 1.4, -0.12), 0.14, PAINTS[rng.integers(len(PAINTS))])
    for side in (-1, 1):
        shoulder: Point = (0.19 * side, neck[1] - 0.04, neck[2])
        b.path((shoulder, (0.27 * side, 1.24, 0.24), (0.25 * side, 1.08, 0.4)), 0.052, shirt)
        b.ball((0.25 * side, 1.08, 0.4), 0.05, skin, size=0.05)
    center: Point = (0.0, neck[1] + 0.2, neck[2] + 0.06)
    _head(b, center, 0.105, skin, helmet, away)
    return b, 1.8


def _head(b: MeshBuilder, center: Point, radius: float, skin: Color, cover: Color, away: bool) -> None:
    """A head with hair, a hat or a helmet; from behind it covers most of the face."""
    x, y, z = center
    b.ball(center, radius, skin)
    if away:
        b.ball((x, y + 0.02, z - 0.03), radius * 0.98, cover)
    else:
        b.limb(
            (x - radius * 0.45, y + radius * 0.62, z),
            (x + radius * 0.45, y + radius * 0.62, z),
            radius * 0.5,
            cover,
        )
