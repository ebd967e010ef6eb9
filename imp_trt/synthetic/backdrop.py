# SPDX-License-Identifier: Apache-2.0
"""Sky, skyline and ground, rendered before all objects."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.synthetic.draw import NEAR, SUPERSAMPLE, Camera, Canvas, clip_near, fixed_point
from imp_trt.synthetic.layout import SEGMENT, Street
from imp_trt.synthetic.palette import (
    ASPHALT,
    BUILDING,
    FACADES,
    KERB,
    LEAVES,
    PAINTED_LINE,
    PAVEMENT,
    ROAD,
    SLABS,
    VEGETATION,
    Color,
    Light,
)
from imp_trt.synthetic.props import Prop

_TILE = 512
_FAR = 420.0
_SHADOW_REACH = 60.0
_UP = np.array([[0.0, 1.0, 0.0]])


@lru_cache(maxsize=4)
def noise_tile(roughness: float) -> NDArray[np.float32]:
    """[512, 512] tileable noise with mean 0 and standard deviation 1; higher roughness is smoother."""
    spectrum = np.fft.rfft2(np.random.default_rng(20191027).normal(size=(_TILE, _TILE)))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :])
    frequency[0, 0] = 1.0
    spectrum *= frequency**-roughness
    spectrum[0, 0] = 0.0
    tile = np.fft.irfft2(spectrum, s=(_TILE, _TILE))
    return np.asarray(tile / tile.std(), np.float32)


def paint_sky(canvas: Canvas, camera: Camera, street: Street, time: float) -> None:
    """Gradient, sun glow and drifting clouds down to the horizon."""
    light = street.light
    rows = min(camera.height, math.ceil(camera.horizon) + 1)
    up = (camera.horizon - np.arange(rows, dtype=np.float32)[:, None]) / camera.focal
    across = (np.arange(camera.width, dtype=np.float32)[None, :] - camera.width / 2) / camera.focal
    blend = np.clip(up / 0.5, 0, 1) ** 0.65
    sky = light.horizon + (light.zenith - light.horizon) * blend[..., None]
    sky = np.broadcast_to(sky, (rows, camera.width, 3)).astype(np.float32)
    # Clouds are on a plane, so they get denser towards the horizon.
    depth = 26.0 / (np.maximum(up, 0) + 0.1)
    along = np.cos(camera.yaw) * across + np.sin(camera.yaw)
    shift = street.key[-1] % 911 * 37.0
    map_x = np.broadcast_to(along * depth + shift + 1.2 * time, (rows, camera.width)).astype(np.float32)
    map_y = np.broadcast_to(depth * 1.4 + 2 * shift + 0.05 * camera.position[2], map_x.shape)
    field = cv2.remap(
        noise_tile(1.7), map_x, map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    cover = np.clip((field - 1.3 + 2.4 * light.clouds) * 0.55, 0, 1) * np.clip(up * 9, 0.15, 1)
    white = 0.35 * light.horizon + 0.65 * np.minimum(255 * (light.ambient + 0.75 * light.sun_color), 250)
    sky += (0.8 * cover)[..., None] * (white - sky - 14 * np.clip(field, 0, 2)[..., None])
    _glow(sky, across, up, camera, light)
    size = (camera.width * SUPERSAMPLE, rows * SUPERSAMPLE)
    canvas.image[: size[1]] = cv2.resize(np.clip(sky, 0, 255).astype(np.uint8), size)


def _glow(
    sky: NDArray[np.float32],
    across: NDArray[np.float32],
    up: NDArray[np.float32],
    camera: Camera,
    light: Light,
) -> None:
    x, y, z = camera.view(light.sun[None] + np.asarray(camera.position))[0].tolist()
    if z < 0.1 or light.sun_color.max() < 0.35:
        return
    distance = (across - x / z) ** 2 + (up - (y - camera.position[1]) / z) ** 2
    strength = 0.55 * np.exp(-distance / 0.03) + 0.25 * np.exp(-distance / 0.4)
    tint = np.minimum(255 * (light.ambient + light.sun_color), 255)
    sky += strength[..., None] * (tint - sky)


def paint_skyline(canvas: Canvas, camera: Camera, street: Street) -> None:
    """Houses and trees at infinity at the end of the street."""
    rng = np.random.default_rng([*street.key, 90])
    light = street.light
    base = camera.horizon + 1.5
    gain = (light.ambient + 0.5 * light.sun_color)[None]
    for label, count, low, high, colors in (
        (BUILDING, 34, 0.012, 0.075, FACADES),
        (VEGETATION, 70, 0.006, 0.03, LEAVES),
    ):
        angles, heights = np.sort(rng.uniform(-0.95, 0.95, count)), rng.uniform(low, high, count)
        widths = rng.uniform(0.03, 0.09, count)
        picks = rng.integers(len(colors), size=count)
        tinted = 0.3 * np.array(colors)[picks] * gain + 0.7 * light.horizon
        for k in rng.permutation(count).tolist():
            x = camera.width / 2 + camera.focal * math.tan(float(angles[k]) - camera.yaw)
            half, top = camera.focal * float(widths[k]) / 2, base - camera.focal * float(heights[k])
            if label == BUILDING:
                shape = [(x - half, base), (x - half, top), (x + half, top), (x + half, base)]
            else:
                turns = np.linspace(math.pi, 2 * math.pi, 9).tolist()
                shape = [(x + 1.4 * half * math.cos(a), base + (base - top) * math.sin(a)) for a in turns]
            canvas.polygon(np.array(shape), tinted[k].tolist(), label)


def paint_ground(canvas: Canvas, camera: Camera, street: Street, props: list[Prop]) -> None:
    """Verges, pavements, roads and their markings, with texture and shadows."""
    gain = street.light.shade(_UP)[0]
    near, far = camera.position[2] - 6.0, camera.position[2] + _FAR

    def flat(x: tuple[float, float], z: tuple[float, float], color: Color, label: int) -> None:
        corners = np.array([(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])], np.float64)
        pixels = _seen_polygon(corners, camera)
        if pixels is not None:
            canvas.polygon(pixels, np.minimum(np.array(color) * gain, 255).tolist(), label)

    for side in (-1, 1):
        k = (side + 1) // 2
        edge, kerb = street.edge(side), street.edge(side) + side * 0.3
        lot, label = (street.grass, VEGETATION) if street.verge[k] else (SLABS, PAVEMENT)
        flat((0.0, side * 400.0), (near, far), lot, label)
        flat((edge, edge + side * street.pavement[k]), (near, far), SLABS, PAVEMENT)
        flat((edge, kerb), (near, far), KERB, PAVEMENT)
    flat((street.left, street.right), (near, far), ASPHALT, ROAD)
    for number in reversed(street.segments(camera.position[2])):
        gap = street.junction(number)
        if gap is not None:
            for side in (-1, 1):
                reach = (street.edge(side) - side * 0.4, side * 200.0)
                flat((street.edge(side), side * 200.0), gap, SLABS, PAVEMENT)
                flat(reach, (gap[0] + 2.2, gap[1] - 2.2), ASPHALT, ROAD)
    _paint_markings(canvas, camera, street, gain)
    _shade_ground(canvas, camera, street, props)


def _paint_markings(canvas: Canvas, camera: Camera, street: Street, gain: NDArray[np.float64]) -> None:
    """Lane lines and zebra crossings; they are part of the road, so the number map is unchanged."""
    found = [r for n in street.segments(camera.position[2]) for r in _markings(street, n)]
    x0, z0, x1, z1 = np.array(found).T
    corners = np.zeros((len(found), 4, 3))
    corners[..., 0] = np.stack([x0, x1, x1, x0], axis=1)
    corners[..., 2] = np.stack([z0, z0, z1, z1], axis=1)
    seen = camera.view(corners.reshape(-1, 3)).reshape(-1, 4, 3)
    nearest = seen[..., 2].min(axis=1)
    whole = camera.pixels(seen[nearest >= NEAR].reshape(-1, 3)).reshape(-1, 4, 2)
    cut = [clip_near(polygon) for polygon in seen[(nearest < NEAR) & (seen[..., 2].max(axis=1) > NEAR)]]
    shapes = [*fixed_point(whole), *(fixed_point(camera.pixels(p)) for p in cut if len(p) >= 3)]
    color = np.minimum(np.array(PAINTED_LINE) * gain, 255).tolist()
    for shape in shapes:
        cv2.fillConvexPoly(canvas.image, shape, color, cv2.LINE_8, 3)


def _markings(street: Street, number: int) -> list[tuple[float, float, float, float]]:
    """Rectangles (x0, z0, x1, z1) of markings in a segment."""
    start, gap = number * SEGMENT, street.junction(number)
    found = [(-1.77, start + 6.0 * k, -1.63, start + 6.0 * k + 3.0) for k in range(6)]
    for side in (-1, 1):
        if street.parking[(side + 1) // 2]:
            x = street.edge(side) - side * 2.3
            found += [(x - 0.05, start + 3.0 * k, x + 0.05, start + 3.0 * k + 1.0) for k in range(12)]
    if gap is not None:
        found = [r for r in found if r[3] < gap[0] - 4.0 or r[1] > gap[1]]
        for k in range(int(street.right - street.left)):
            x = street.left + 0.25 + k
            found.append((x, gap[0] - 3.2, x + 0.5, gap[0] - 0.4))
        found.append((-1.6, gap[0] - 4.6, 1.6, gap[0] - 4.2))
    return found


def _seen_polygon(corners: NDArray[np.float64], camera: Camera) -> NDArray[np.float64] | None:
    seen = camera.view(corners)
    if seen[:, 2].max() <= NEAR:
        return None
    if seen[:, 2].min() < NEAR:
        seen = clip_near(seen)
    return camera.pixels(seen) if len(seen) >= 3 else None


def _shade_ground(canvas: Canvas, camera: Camera, street: Street, props: list[Prop]) -> None:
    """Multiply the ground by its texture, in world coordinates, and by shadows."""
    first = min(max(math.ceil(camera.horizon) + 1, 0), camera.height - 1)
    rows = np.arange(first, camera.height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(camera.width, dtype=np.float32)[None, :] + 0.5
    depth = camera.focal * camera.position[1] / (rows - camera.horizon)
    right = (columns - camera.width / 2) / camera.focal * depth
    sin, cos = math.sin(camera.yaw), math.cos(camera.yaw)
    x = np.asarray(cos * right + sin * depth + camera.position[0], np.float32)
    z = np.asarray(cos * depth - sin * right + camera.position[2] % 1024.0, np.float32)
    fine = cv2.remap(noise_tile(0.4), x * 16, z * 16, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    coarse = cv2.remap(noise_tile(1.2), x * 9, z * 3, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    gain = 1 + 0.045 * fine * np.minimum(1, 7 / depth) + 0.05 * coarse * np.minimum(1, 30 / depth)
    mask = np.zeros((camera.height, camera.width), np.uint8)
    _shadows(mask, camera, street, props)
    shadow = cv2.blur(mask[first:], (3, 3))
    gain = np.clip(gain * (128 - shadow * (128 / 255)), 0, 255).astype(np.uint8)
    size = (camera.width * SUPERSAMPLE, (camera.height - first) * SUPERSAMPLE)
    doubled = cv2.resize(gain, size)
    ground = canvas.image[first * SUPERSAMPLE :]
    cv2.multiply(ground, cv2.merge([doubled] * 3), dst=ground, scale=1 / 128)


def _shadows(mask: NDArray[np.uint8], camera: Camera, street: Street, props: list[Prop]) -> None:
    """Cast shadows, then contact shadows below objects."""
    sun = street.light.sun
    reach = np.array([-sun[0], -sun[2]]) / max(float(sun[1]), 0.2)
    cast, contact = round(255 * street.light.shadow), round(255 * min(0.8, street.light.shadow + 0.35))
    end = camera.position[2] + _SHADOW_REACH
    near = [p for p in props if p.box[1] < end + (p.label == BUILDING) * _SHADOW_REACH]
    if not near:
        return
    boxes = np.array([p.box for p in near])
    heights = np.array([p.height for p in near])[:, None, None]
    crowns = np.array([p.crown for p in near])
    base = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    middle = base.mean(axis=1, keepdims=True)
    _fill_hulls(mask, np.concatenate([base, base + reach * heights], axis=1), camera, cast)
    trees = crowns > 0
    turns = np.linspace(0, 2 * math.pi, 11)[:-1]
    disc = np.stack([np.cos(turns), np.sin(turns)], axis=1) * crowns[trees, None, None]
    _fill_hulls(mask, disc + (middle + 0.7 * reach * heights)[trees], camera, cast)
    standing = np.array([p.label != BUILDING for p in near])
    _fill_hulls(mask, (middle + 1.08 * (base - middle))[standing], camera, contact)


def _fill_hulls(mask: NDArray[np.uint8], flat: NDArray[np.float64], camera: Camera, value: int) -> None:
    """Fill the convex hull of each group of ground points [M, K, 2] = (x, z)."""
    corners = np.zeros((*flat.shape[:2], 3))
    corners[..., 0], corners[..., 2] = flat[..., 0], flat[..., 1]
    seen = camera.view(corners.reshape(-1, 3))
    # Points next to or behind the camera are moved to the near plane, which keeps the hull on their side.
    seen[:, 2] = np.maximum(seen[:, 2], NEAR)
    pixels = camera.pixels(seen).reshape(*flat.shape)
    inside = seen[:, 2].reshape(flat.shape[:2]).max(axis=1) > NEAR
    left, right = pixels[..., 0].min(axis=1), pixels[..., 0].max(axis=1)
    points = np.clip(np.rint((pixels - 0.5) * 8), -1e6, 1e6).astype(np.int32)
    for group in points[inside & (right > 0) & (left < camera.width)]:
        cv2.fillConvexPoly(mask, cv2.convexHull(group), (value,), cv2.LINE_AA, 3)
