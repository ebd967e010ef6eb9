# SPDX-License-Identifier: Apache-2.0
"""Layout of one street: style, static and moving objects, for any position and time.

The layout is a function of a key of integers. Static objects belong to segments of the street, moving
ones to flows of numbered slots; each has a random generator keyed by its own number, so the street is
unbounded and independent of the order of queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from imp_trt.synthetic import props, surroundings
from imp_trt.synthetic.palette import BUS, CAR, TRUCK, Light, random_light
from imp_trt.synthetic.props import Prop

SEGMENT = 36.0
"""Length of a segment of the street in meters."""
THING_REACH, TREE_REACH, HOUSE_REACH = 75.0, 110.0, 165.0
"""Distances in meters up to which things, plants and poles, and houses are drawn."""
_BEHIND = 10.0
_LANE = 3.4
_PARKING = 2.2
_MARGIN = 0.8
_AHEAD, _BACK = 0.0, math.pi


@dataclass
class _Item:
    """A static prop that is built when it first becomes visible."""

    near: float
    far: float
    reach: float
    make: Callable[[], list[Prop]]
    made: list[Prop] | None = field(default=None)

    def props(self) -> list[Prop]:
        if self.made is None:
            self.made = self.make()
        return self.made


class Street:
    """An endless straight street along z; the camera drives in the right-hand lane around x = 0.

    Args:
        key: integers that determine the street.
        busy: density of traffic and people; 1 is normal.
        headway: minimum distance in meters of the next vehicle in the camera's lane.
    """

    def __init__(self, key: Sequence[int], busy: float = 1.0, headway: float = 11.0) -> None:
        self.key = tuple(key)
        self.busy = busy
        self.headway = headway
        rng = np.random.default_rng([*self.key, 0])
        self.light: Light = random_light(rng)
        parking = rng.random(2) < 0.62
        self.parking: tuple[bool, bool] = (bool(parking[0]), bool(parking[1]))
        self.left = -(1.5 * _LANE + _MARGIN + (_PARKING if self.parking[0] else 0.0))
        self.right = 0.5 * _LANE + _MARGIN + (_PARKING if self.parking[1] else 0.0)
        self.pavement: tuple[float, float] = (rng.uniform(2.2, 4.0), rng.uniform(2.2, 4.0))
        green = rng.random(2) < 0.45
        self.verge: tuple[float, float] = (
            rng.uniform(2.5, 5.0) if green[0] else 0.0,
            rng.uniform(2.5, 5.0) if green[1] else 0.0,
        )
        self.grass = surroundings.verge_color(rng)
        self.storeys = float(rng.uniform(1.8, 4.5))
        self.trees = float(rng.uniform(0.1, 0.8))
        self.crowd = float(rng.uniform(0.3, 1.0)) * busy
        self.junction_every = int(rng.integers(2, 5))
        self.junction_phase = int(rng.integers(self.junction_every))
        self.speeds = rng.uniform(0.85, 1.15, size=8)
        self._segments: dict[int, list[_Item]] = {}

    def edge(self, side: int) -> float:
        """x of the kerb: side 1 = right, -1 = left."""
        return self.right if side > 0 else self.left

    def house_line(self, side: int) -> float:
        """x of the facades."""
        k = (side + 1) // 2
        return self.edge(side) + side * (self.pavement[k] + self.verge[k])

    def junction(self, segment: int) -> tuple[float, float] | None:
        """z where a side road begins and ends in a segment, if it has one."""
        if (segment + self.junction_phase) % self.junction_every:
            return None
        return segment * SEGMENT + 11.0, segment * SEGMENT + 23.0

    def segments(self, z: float) -> range:
        """Numbers of the segments seen from z."""
        return range(math.floor((z - _BEHIND) / SEGMENT), math.floor((z + HOUSE_REACH) / SEGMENT) + 1)

    def props(self, z: float, time: float) -> list[Prop]:
        """Everything to paint from a camera at z, at a time in seconds, in no particular order."""
        found: list[Prop] = []
        for number in self.segments(z):
            if number not in self._segments:
                self._segments[number] = list(self._standing(number))
            for item in self._segments[number]:
                if item.far > z - _BEHIND and item.near < z + item.reach:
                    found += item.props()
        found += self._traffic(z, time)
        found += self._walkers(z, time)
        found += self._crossing(z, time)
        return found

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([*self.key, purpose, number + (1 << 24)])

    # Static objects.

    def _standing(self, number: int) -> Iterator[_Item]:
        rng = self._rng(1, number)
        start, end = number * SEGMENT, (number + 1) * SEGMENT
        gap = self.junction(number)
        runs = [(start, end)] if gap is None else [(start, gap[0]), (gap[1], end)]
        for side in (-1, 1):
            for run in runs:
                yield from self._houses(rng, side, run)
                yield from self._greenery(rng, side, run)
                yield from self._parked(rng, side, run)
                yield from self._loiterers(rng, side, run)
            z = start + (4.0 if side > 0 else 27.0)
            yield self._item(rng, (z, z), TREE_REACH, props.lamp, self.edge(side) + side * 0.5, z, side)
            yield from self._signs(rng, side, start, gap)
        if gap is not None:
            yield from self._side_street(rng, gap)

    def _item(
        self,
        rng: np.random.Generator,
        span: tuple[float, float],
        reach: float,
        make: Callable[..., list[Prop]],
        *arguments: object,
    ) -> _Item:
        seed = int(rng.integers(1 << 62))
        return _Item(*span, reach, lambda: make(np.random.default_rng(seed), self.light, *arguments))

    def _houses(self, rng: np.random.Generator, side: int, run: tuple[float, float]) -> Iterator[_Item]:
        z = run[0]
        face = self.house_line(side)
        while run[1] - z > 5.0:
            length = min(float(rng.uniform(7.0, 15.0)), run[1] - z)
            if rng.random() < 0.1:
                z += length * 0.4  # a gap between houses
                continue
            storeys = max(1, round(self.storeys + float(rng.normal(0, 0.9))))
            span = (z, z + length)
            yield self._item(rng, span, HOUSE_REACH, props.house, side, face, span, storeys)
            z += length

    def _greenery(self, rng: np.random.Generator, side: int, run: tuple[float, float]) -> Iterator[_Item]:
        k = (side + 1) // 2
        inner = self.edge(side) + side * self.pavement[k]
        verge = self.verge[k]
        for z in np.arange(run[0] + 3.0, run[1] - 2.0, 7.5).tolist():
            chance, shift, kind = rng.random(3).tolist()
            if chance < self.trees:
                x = inner + side * 0.5 * verge if verge else self.edge(side) + side * 0.8
                at = z + 2.5 * (shift - 0.5)
                yield self._item(rng, (at - 2, at + 2), TREE_REACH, props.tree, x, at)
            elif verge and kind < 0.4:
                span = (z - 2.5, z + 3.0)
                yield self._item(rng, span, TREE_REACH, props.hedge, inner, span, side)
            elif verge and kind < 0.75:
                x = inner + side * (0.7 + 0.5 * shift * verge)
                yield self._item(rng, (z, z), TREE_REACH, props.bush, x, z)

    def _signs(
        self, rng: np.random.Generator, side: int, start: float, gap: tuple[float, float] | None
    ) -> Iterator[_Item]:
        edge = self.edge(side)
        for offset in (8.0, 25.0, 31.0):
            chance, shift = rng.random(2).tolist()
            if chance < 0.5 * self.busy:
                z = start + offset + 2.0 * shift
                yield self._item(rng, (z, z), THING_REACH, props.sign, edge, z, side, False)
        if gap is not None:
            z = gap[0] - 0.5
            yield self._item(rng, (z, z), THING_REACH, props.sign, edge, z, side, True)

    def _parked(self, rng: np.random.Generator, side: int, run: tuple[float, float]) -> Iterator[_Item]:
        if not self.parking[(side + 1) // 2]:
            return
        z = run[0] + 1.0 + float(rng.uniform(0, 3))
        x = self.edge(side) - side * _PARKING / 2
        while z < run[1] - 4.8:
            chance, kind, turned = rng.random(3).tolist()
            label, room = (CAR, 5.6) if kind < 0.72 else (TRUCK, 10.0) if kind < 0.88 else (BUS, 12.6)
            if z + room > run[1]:
                label, room = CAR, 5.6
            if chance < 0.62 * self.busy:
                heading = _AHEAD if (side > 0) == (turned < 0.9) else _BACK
                spot = (x, z + room / 2, heading)
                yield self._item(rng, (z, z + room), THING_REACH, props.vehicle, label, *spot)
            z += room + 0.4 * chance

    def _loiterers(self, rng: np.random.Generator, side: int, run: tuple[float, float]) -> Iterator[_Item]:
        """Standing people."""
        for z in np.arange(run[0] + 2.0, run[1] - 1.0, 6.0).tolist():
            chance, shift, across, turn = rng.random(4).tolist()
            if chance < 0.2 * self.crowd:
                x = self.edge(side) + side * (0.5 + across * (self.pavement[(side + 1) // 2] - 0.8))
                at = z + 3 * shift
                yield self._item(rng, (at, at), THING_REACH, props.person, x, at, turn * 2 * math.pi, 0.25)

    def _side_street(self, rng: np.random.Generator, gap: tuple[float, float]) -> Iterator[_Item]:
        """Waiting vehicles in the side street, visible from the side."""
        for side in (-1, 1):
            z = (gap[0] + gap[1]) / 2 + (1.9 if side < 0 else -1.9)
            x = self.edge(side) + side * (1.2 + 1.5 * float(rng.random()))
            for _ in range(2):
                chance, kind = rng.random(2).tolist()
                label, length = (CAR, 4.8) if kind < 0.5 else (TRUCK, 9.0) if kind < 0.75 else (BUS, 11.5)
                if chance < 0.75 * self.busy:
                    spot = (x + side * length / 2, z, -side * math.pi / 2)
                    yield self._item(rng, (z - 1, z + 1), THING_REACH, props.vehicle, label, *spot)
                x += side * (length + 1.5)

    # Moving objects.

    def _traffic(self, z: float, time: float) -> Iterator[Prop]:
        for slot in range(4):  # vehicles in the lane ahead keep their distance
            rng = self._rng(2, slot)
            chance, kind, shift, phase = rng.random(4).tolist()
            at = z + self.headway + 16.0 * slot + 7.0 * shift + 2.0 * math.sin(0.35 * time + 6.3 * phase)
            if chance < 0.55 * self.busy:
                yield from props.vehicle(
                    rng, self.light, _vehicle_kind(kind), 0.25 * (phase - 0.5), at, _AHEAD
                )
        speed = -9.0 * self.speeds[0]
        for slot, at in _flow(z, time, speed, 21.0, THING_REACH):
            rng = self._rng(3, slot)
            chance, kind, shift = rng.random(3).tolist()
            if chance < 0.6 * self.busy:
                yield from props.vehicle(
                    rng, self.light, _vehicle_kind(kind), -_LANE, at + 6.0 * shift, _BACK
                )
        for purpose, x, speed, heading in (
            (4, 0.5 * _LANE + 0.25, 4.5 * self.speeds[1], _AHEAD),
            (5, -1.5 * _LANE - 0.25, -5.0 * self.speeds[2], _BACK),
        ):
            for slot, at in _flow(z, time, speed, 13.0, THING_REACH):
                rng = self._rng(purpose, slot)
                chance, shift, phase = rng.random(3).tolist()
                if chance < 0.42 * self.busy:
                    turn = heading + 0.12 * (phase - 0.5)
                    yield from props.cyclist(
                        rng, self.light, x, at + 6.0 * shift, turn, 5.5 * time + 6.3 * phase
                    )

    def _walkers(self, z: float, time: float) -> Iterator[Prop]:
        for side in (-1, 1):
            width = self.pavement[(side + 1) // 2]
            for lane in range(2):
                direction = 1 if (lane + (side > 0)) % 2 else -1
                speed = 1.35 * direction * self.speeds[3 + lane + (side > 0)]
                for slot, at in _flow(z, time, speed, 5.0, 60.0):
                    rng = self._rng(8 + 2 * lane + (side > 0), slot)
                    chance, shift, across, phase = rng.random(4).tolist()
                    if chance < 0.42 * self.crowd:
                        x = self.edge(side) + side * (0.7 + (lane + across) * 0.5 * (width - 1.1))
                        heading = (_AHEAD if direction > 0 else _BACK) + 0.3 * (across - 0.5)
                        step = 5.2 * abs(speed) / 1.35 * time + 6.3 * phase
                        yield from props.person(rng, self.light, x, at + 3.5 * shift, heading, step)

    def _crossing(self, z: float, time: float) -> Iterator[Prop]:
        """People on zebra crossings, who have crossed before the camera arrives."""
        for number in self.segments(z):
            gap = self.junction(number)
            if gap is None or not 12.0 < gap[0] - z < 62.0:
                continue
            for slot in range(4):
                rng = self._rng(12, 8 * number + slot)
                chance, shift, lead, phase = rng.random(4).tolist()
                if chance > 0.5 * self.crowd + 0.2:
                    continue
                direction = 1 if phase < 0.5 else -1
                done = (62.0 - (gap[0] - z)) / 50.0 * 1.5 - 0.45 * lead
                x = self.left - 1 + (self.right - self.left + 2) * done
                if not self.left - 1.5 < x < self.right + 1.5:
                    continue
                x = x if direction > 0 else self.left + self.right - x
                heading = direction * math.pi / 2
                yield from props.person(
                    rng, self.light, x, gap[0] - 2.9 + 2.4 * shift, heading, 5.2 * time + 6.3 * phase
                )


def _flow(z: float, time: float, speed: float, spacing: float, reach: float) -> Iterator[tuple[int, float]]:
    """Slots of an unbounded column moving along the street: number and z of those visible from z."""
    moved = speed * time
    first = math.floor((z - _BEHIND - moved) / spacing)
    last = math.floor((z + reach - moved) / spacing)
    return ((slot, slot * spacing + moved) for slot in range(first, last + 1))


def _vehicle_kind(chance: float) -> int:
    return CAR if chance < 0.6 else TRUCK if chance < 0.8 else BUS
