# SPDX-License-Identifier: Apache-2.0
"""Drawing one result: first the image against a plain drawing of the same, then the time.

    python -m tests.bench.bench_draw [--json] [--threads 1] [--repeats 30] [--size 1080 1920] [--instances 30]

The plain drawing pastes every mask into a frame of its own and blends whole frames; the two must be equal,
byte for byte. The street is drawn, so that class map and instances are exact, and busy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.platform import cpu_model
from imp_trt.results.disagreement import disagreement_map
from imp_trt.results.result import Instances, SegmentationResult
from imp_trt.results.shading import shaded
from imp_trt.synthetic import StreetScenes

CELLS = 28
GOAL_MS = 25.0


def street(size: tuple[int, int], count: int) -> tuple[NDArray[np.uint8], SegmentationResult]:
    """A busy street of the given size, [h, w, 3] uint8 BGR, and its truth as a network would give it."""
    scene = StreetScenes(5, size)[10]
    areas = np.bincount(scene.instances.ravel())
    areas[0] = 0
    numbers = [int(n) for n in np.argsort(-areas, kind="stable")[:count] if areas[n]]
    boxes, labels, masks = [], [], []
    for number in numbers:
        mask = (scene.instances == number).view(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        boxes.append((x, y, x + w, y + h))
        labels.append(scene.semantic[mask.view(np.bool_)][0])
        part = mask[y : y + h, x : x + w].astype(np.float32)
        masks.append(cv2.resize(part, (CELLS, CELLS), interpolation=cv2.INTER_AREA))
    instances = Instances(
        np.array(boxes, np.float32),
        np.array(labels, np.int32),
        np.linspace(0.99, 0.35, len(numbers), dtype=np.float32),
        np.stack(masks),
        size,
    )
    return scene.image, SegmentationResult(scene.semantic, instances, StreetScenes(5, size).classes)


def plain_drawing(frame: NDArray[np.uint8], result: SegmentationResult) -> NDArray[np.uint8]:
    """What plot(frame, labels=False) shows, without a thought for time."""
    palette = np.array(result.classes.palette, np.float64)[:, ::-1]
    picture = np.rint(0.75 * frame + 0.25 * palette[result.semantic]).astype(np.uint8)
    line = max(1, round(min(result.size) / 540))
    found = result.instances
    shades = shaded(found.boxes, found.labels.tolist(), result.classes)
    for mask, shade in zip(found.paste()[::-1], shades[::-1], strict=True):
        color = np.array(shade, np.float64)
        filled = np.rint(0.5 * frame + 0.5 * color).astype(np.uint8)
        picture[mask] = filled[mask]
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outlines = [cv2.approxPolyDP(outline, 1.0, True) for outline in outlines]
        light, dark = np.rint(color + (255 - color) * 0.55), np.rint(color * 0.35)
        cv2.drawContours(picture, outlines, -1, dark.tolist(), line + 2, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, light.tolist(), line, cv2.LINE_AA)
    return picture


def check_picture(picture: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> None:
    """SystemExit unless two images are equal."""
    wrong = int((picture != wanted).any(axis=2).sum())
    if wrong:
        raise SystemExit(f"the image differs in {wrong} pixels: no time is worth taking")


def milliseconds(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return {"best": round(min(times), 2), "p50": round(statistics.median(times), 2)}


def measure(size: tuple[int, int], count: int, repeats: int) -> dict[str, dict[str, float]]:
    frame, result = street(size, count)
    check_picture(result.plot(frame, labels=False), plain_drawing(frame, result))
    things = result.classes.things
    forms: dict[str, Callable[[], Any]] = {
        "plot": lambda: result.plot(frame),
        "plot with legend": lambda: result.plot(frame, legend=True),
        "disagreement": lambda: disagreement_map(result.semantic, result.instances, things),
        "panoptic": result.panoptic,
        "to_coco": lambda: result.to_coco(0),
    }
    return {name: milliseconds(run, repeats) for name, run in forms.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920), metavar=("H", "W"))
    parser.add_argument("--instances", type=int, default=30)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    height, width = options.size
    times = measure((height, width), options.instances, options.repeats)
    machine = f"{cpu_model()}, {options.threads} thread(s), OpenCV {cv2.__version__}, numpy {np.__version__}"
    if options.json:
        print(json.dumps({"machine": machine, "size": options.size, "ms": times}, indent=2))
        return
    print(machine)
    print(f"{options.instances} instances at {height}x{width}; goal of plot: {GOAL_MS:.0f} ms")
    for name, row in times.items():
        print(f"{name:>18} {row['best']:8.2f} ms best {row['p50']:8.2f} ms median")


if __name__ == "__main__":
    main()
