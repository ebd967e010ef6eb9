# SPDX-License-Identifier: Apache-2.0
"""A small renderer: meshes of faces, limbs and balls in painter's order on a canvas with 2x supersampling.

World coordinates are in meters: x to the right, y up, z forward along the street. The image is rendered at
twice its size and downsampled for anti-aliasing; the map of object numbers is rendered by the same
calls and subsampled, so that labels have no mixed pixels and match the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.data.cached_property import cached_property
from imp_trt.synthetic.palette import Color, Light

NEAR = 0.4
"""Near plane: minimum distance of rendered points from the camera in meters."""

SUPERSAMPLE = 2
_SHIFT = 3  # binary places of OpenCV's fixed-point coordinates

Point = tuple[float, float, float]
Interval = tuple[float, float]
UP: Point = (0.0, 1.0, 0.0)
AHEAD: Point = (0.0, 0.0, 1.0)
BACK: Point = (0.0, 0.0, -1.0)
_NO_NORMAL: Point = (0.0, 0.0, 0.0)


def facing_z(z: float, x: Interval, y: Interval) -> list[Point]:
    """Corners of a vertical rectangle across the street."""
    return [(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]


def facing_x(x: float, z: Interval, y: Interval) -> list[Point]:
    """Corners of a vertical rectangle along the street."""
    return [(x, y[0], z[0]), (x, y[0], z[1]), (x, y[1], z[1]), (x, y[1], z[0])]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with yaw; pitch only moves the horizon, so vertical lines stay vertical.

    Attributes:
        height, width: size of the image in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        position: world coordinates of the pinhole.
        yaw: rotation to the right in radians.
    """

    height: int
    width: int
    focal: float
    horizon: float
    position: Point
    yaw: float = 0.0

    def view(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 3] world points as right, up and depth from the camera."""
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        turn = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
        return np.asarray((points - np.asarray(self.position)) @ turn, np.float64)

    def pixels(self, seen: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2] continuous image coordinates of view coordinates in front of the camera."""
        scale = self.focal / np.maximum(seen[:, 2:], NEAR)
        return np.asarray(seen[:, :2] * scale * (1.0, -1.0) + (self.width / 2, self.horizon), np.float64)


class Primitive(NamedTuple):
    """A primitive of a mesh: a filled polygon (radius 0), limbs and balls (radius in meters), or quads (-1).

    Primitives with ``inside`` are within earlier ones of the mesh: they do not change the number map.
    """

    start: int
    stop: int
    radius: float
    inside: bool
    convex: bool


@dataclass(frozen=True)
class Mesh:
    """Primitives in rendering order, in world coordinates.

    Attributes:
        vertices: [V, 3] float64.
        primitives: primitives over ranges of the vertices.
        colors: [P, 3] float64 lit BGR.
        normals: [P, 3] float64 outward normals; zeros for primitives visible from all sides.
        starts: [P] first vertex of each primitive.
        sizes: [P] extent in meters of details that are skipped at a distance; else 0.
    """

    vertices: NDArray[np.float64]
    primitives: tuple[Primitive, ...]
    colors: NDArray[np.float64]
    normals: NDArray[np.float64]
    starts: NDArray[np.intp]
    sizes: NDArray[np.float64]

    def placed(self, light: Light, position: Point, heading: float = 0.0) -> Mesh:
        """This mesh rotated to the right by heading (radians), translated, and lit."""
        sin, cos = math.sin(heading), math.cos(heading)
        turn = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
        normals = self.normals @ turn
        return replace(
            self,
            vertices=self.vertices @ turn + np.asarray(position),
            colors=np.minimum(self.colors * light.shade(normals), 255.0),
            normals=normals,
        )


class MeshBuilder:
    """Collects primitives in object coordinates: x to the right, y up, z ahead."""

    def __init__(self) -> None:
        self._vertices: list[Point] = []
        self._primitives: list[Primitive] = []
        self._colors: list[Color] = []
        self._normals: list[Point] = []
        self._sizes: list[float] = []

    def face(
        self,
        points: Sequence[Point],
        normal: Point,
        color: Color,
        inside: bool = False,
        size: float = 0.0,
        convex: bool = True,
    ) -> None:
        """A flat polygon, visible from the side of its normal only (a zero normal: from both)."""
        self._add(points, 0.0, color, normal, inside, size, convex)

    def limb(self, start: Point, end: Point, radius: float, color: Color, size: float = 0.0) -> None:
        """A capsule from one joint to another."""
        self._add((start, end), radius, color, _NO_NORMAL, False, size)

    def path(self, points: Sequence[Point], radius: float, color: Color, size: float = 0.0) -> None:
        """A polyline with round joints."""
        self._add(points, radius, color, _NO_NORMAL, False, size)

    def ball(self, center: Point, radius: float, color: Color, size: float = 0.0) -> None:
        """A disc that always faces the camera."""
        self._add((center,), radius, color, _NO_NORMAL, False, size)

    def quads(self, points: Sequence[Point], normal: Point, color: Color, size: float) -> None:
        """Rectangles without overlap, four points each, within earlier primitives."""
        if points:
            self._add(points, -1.0, color, normal, True, size)

    def _add(
        self,
        points: Sequence[Point],
        radius: float,
        color: Color,
        normal: Point,
        inside: bool,
        size: float,
        convex: bool = True,
    ) -> None:
        start = len(self._vertices)
        self._vertices.extend(points)
        self._primitives.append(Primitive(start, len(self._vertices), radius, inside, convex))
        self._colors.append(color)
        self._normals.append(normal)
        self._sizes.append(size)

    def build(self, light: Light, position: Point = (0.0, 0.0, 0.0), heading: float = 0.0) -> Mesh:
        """The mesh placed in the world and lit; heading is a rotation to the right in radians."""
        return self.template.placed(light, position, heading)

    @cached_property
    def template(self) -> Mesh:
        """The unlit mesh in object coordinates. No primitives may be added afterwards."""
        return Mesh(
            vertices=np.array(self._vertices),
            primitives=tuple(self._primitives),
            colors=np.array(self._colors),
            normals=np.array(self._normals),
            starts=np.array([p.start for p in self._primitives], np.intp),
            sizes=np.array(self._sizes),
        )


class Canvas:
    """The image being rendered, and the object number of each of its subpixels."""

    def __init__(self, height: int, width: int) -> None:
        size = (height * SUPERSAMPLE, width * SUPERSAMPLE)
        self.image: NDArray[np.uint8] = np.zeros((*size, 3), np.uint8)
        self.numbers: NDArray[np.uint16] = np.zeros(size, np.uint16)

    def polygon(self, pixels: NDArray[np.float64], color: Sequence[float], number: int) -> None:
        """Fill a simple polygon in image coordinates [N, 2]."""
        for target, value in self._targets(color, number):
            cv2.fillPoly(target, [fixed_point(pixels)], value, cv2.LINE_8, _SHIFT)

    def _targets(
        self, color: Sequence[float], number: int, inside: bool = False
    ) -> list[tuple[NDArray[Any], Sequence[float]]]:
        """What to draw on, and with which value: the image, and unless inside, the number map."""
        image: tuple[NDArray[Any], Sequence[float]] = (self.image, color)
        return [image] if inside else [image, (self.numbers, (number,))]

    def mesh(self, mesh: Mesh, camera: Camera, number: int, haze: tuple[float, NDArray[np.float64]]) -> None:
        """Render a mesh.

        Args:
            mesh: mesh in world coordinates.
            camera: camera of the image.
            number: object number.
            haze: blend factor of the haze, and its BGR color.
        """
        seen = camera.view(mesh.vertices)
        depth = seen[:, 2]
        if depth.max() < NEAR:
            return
        pixels = camera.pixels(seen)
        cut = bool(depth.min() < NEAR)
        if not cut and _outside(pixels, camera):
            return
        share, tint = haze
        colors = (mesh.colors * (1 - share) + tint * share).tolist()
        towards = mesh.vertices[mesh.starts] - np.asarray(camera.position)
        hidden = (mesh.normals * towards).sum(axis=1) > 1e-9
        scales = camera.focal / np.maximum(depth[mesh.starts], NEAR)
        hidden |= (mesh.sizes > 0) & (mesh.sizes * scales < 0.7)
        points = fixed_point(pixels)
        scale_list = scales.tolist()
        for k in np.flatnonzero(~hidden).tolist():
            primitive = mesh.primitives[k]
            run = slice(primitive.start, primitive.stop)
            if cut and depth[run].min() < NEAR:
                self._cut(primitive, seen[run], camera, colors[k], number)
            elif primitive.radius > 0:
                self._draw_line(points[run], primitive.radius * scale_list[k], colors[k], number)
            else:
                self._fill(primitive, points[run], colors[k], number)

    def _fill(
        self, primitive: Primitive, points: NDArray[np.int32], color: Sequence[float], number: int
    ) -> None:
        if primitive.radius < 0:
            cv2.fillPoly(self.image, list(points.reshape(-1, 4, 2)), color, cv2.LINE_8, _SHIFT)
            return
        for target, value in self._targets(color, number, primitive.inside):
            if primitive.convex:
                cv2.fillConvexPoly(target, points, value, cv2.LINE_8, _SHIFT)
            else:
                cv2.fillPoly(target, [points], value, cv2.LINE_8, _SHIFT)

    def _cut(
        self,
        primitive: Primitive,
        seen: NDArray[np.float64],
        camera: Camera,
        color: Sequence[float],
        number: int,
    ) -> None:
        """Render the part of a polygon in front of the near plane; limbs and balls behind it are skipped."""
        if primitive.radius > 0:
            return
        pieces = np.split(seen, len(seen) // 4) if primitive.radius < 0 else [seen]
        for piece in pieces:
            clipped = clip_near(piece)
            if len(clipped) >= 3:
                whole = primitive._replace(radius=0.0, convex=False)
                self._fill(whole, fixed_point(camera.pixels(clipped)), color, number)

    def _draw_line(
        self, points: NDArray[np.int32], radius: float, color: Sequence[float], number: int
    ) -> None:
        """A disc, or a polyline through points, with a radius in pixels (at least half a pixel)."""
        center = (int(points[0, 0]), int(points[0, 1]))
        size = max(round(radius * SUPERSAMPLE * (1 << _SHIFT)), 1 << _SHIFT)
        thickness = max(round(2 * radius * SUPERSAMPLE), SUPERSAMPLE)
        for target, value in self._targets(color, number):
            if len(points) == 1:
                cv2.circle(target, center, size, value, cv2.FILLED, cv2.LINE_8, _SHIFT)
            else:
                cv2.polylines(target, [points], False, value, thickness, cv2.LINE_8, _SHIFT)


def clip_near(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Clip a polygon [N, 3] in view coordinates to depths of at least NEAR (Sutherland-Hodgman)."""
    kept: list[list[float]] = []
    corners = seen.tolist()
    for here, there in zip(corners, corners[1:] + corners[:1], strict=True):
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (there[2] >= NEAR):
            share = (NEAR - here[2]) / (there[2] - here[2])
            kept.append([a + (b - a) * share for a, b in zip(here, there, strict=True)])
    return np.array(kept, np.float64).reshape(-1, 3)


def _outside(pixels: NDArray[np.float64], camera: Camera) -> bool:
    left, top = pixels.min(axis=0)
    right, bottom = pixels.max(axis=0)
    margin = camera.width / 4  # primitives extend beyond their joints
    return bool(
        right < -margin or left > camera.width + margin or bottom < -margin or top > camera.height + margin
    )


def fixed_point(pixels: NDArray[np.float64]) -> NDArray[np.int32]:
    """OpenCV's fixed-point canvas coordinates, where pixel centers are integers, of image coordinates."""
    scaled = (pixels * SUPERSAMPLE - 0.5) * (1 << _SHIFT)
    return np.rint(np.minimum(np.maximum(scaled, -1e6), 1e6)).astype(np.int32)
