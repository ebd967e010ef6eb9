# SPDX-License-Identifier: Apache-2.0
"""run_pipeline against one frame after the other: first that both give the same, then the time of each.

    python -m tests.bench.bench_pipeline [--artifact FILE] [--clip FILE | --size 540 960] [--frames 60]
                                         [--threads 1] [--repeats 5] [--json]

Each way reads a clip, segments it, and writes nowhere, class maps, or an overlay video and JSON lines.
The two take turns, and their ratio is the median of those of neighbors, which a busy machine slows alike.
Without --artifact the network computes next to nothing; with small frames (--size 64 96 --frames 1000) what
is left is what the threads cost.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2

from imp_trt.cuda.platform import cpu_model
from imp_trt.segmenter import Segmenter
from imp_trt.synthetic import StreetScenes
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import ClassMaps, JsonLines, NullSink, OverlayVideo, SegmentedFrame, Sink
from imp_trt.video.writer import VideoWriter
from tests.support import tiny

SINKS: dict[str, Callable[[Path], list[Sink]]] = {
    "nowhere": lambda folder: [NullSink()],
    "class maps": lambda folder: [ClassMaps(folder / "maps")],
    "overlay video, JSON lines": lambda folder: [
        OverlayVideo(folder / "overlay.mp4", 25),
        JsonLines(folder / "lines.jsonl"),
    ],
}


def drawn_clip(path: Path, frames: int, size: tuple[int, int]) -> Path:
    scenes = StreetScenes(0, size)
    pictures = [scenes[i].image for i in range(8)]
    writer = VideoWriter(path, 25)
    for i in range(frames):
        writer.write(pictures[i % len(pictures)])
    writer.close()
    return path


def one_by_one(segmenter: Segmenter, clip: Path, sinks: list[Sink], frames: int) -> None:
    """What run_pipeline does, without threads."""
    with open_source(clip) as source:
        for frame in source:
            if frame.index == frames:
                break
            item = SegmentedFrame(frame, segmenter.run(frame.image))
            _ = item.result.pixel_counts(), item.result.instances
            for sink in sinks:
                sink.write(item)
    for sink in sinks:
        sink.close()


def overlapping(segmenter: Segmenter, clip: Path, sinks: list[Sink], frames: int) -> None:
    with open_source(clip) as source:
        run_pipeline(segmenter, source, sinks, max_frames=frames)


def written(folder: Path) -> dict[str, Any]:
    """Every file below folder; of JSON lines all but the times, which differ."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [line | {"timing_ms": None} for line in lines]
        else:
            found[path.name] = path.read_bytes()
    return found


def seconds(way: Callable[..., None], segmenter: Segmenter, clip: Path, name: str, frames: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        sinks = SINKS[name](Path(folder))
        begin = time.perf_counter()
        way(segmenter, clip, sinks, frames)
        return time.perf_counter() - begin


def check_equal(segmenter: Segmenter, clip: Path, name: str, frames: int) -> None:
    """SystemExit unless both ways write the same."""
    found = []
    for way in (one_by_one, overlapping):
        with tempfile.TemporaryDirectory() as folder:
            way(segmenter, clip, SINKS[name](Path(folder)), frames)
            found.append(written(Path(folder)))
    if found[0] != found[1]:
        raise SystemExit(f"{name}: the two ways differ: no time is worth taking")


def measure(segmenter: Segmenter, clip: Path, frames: int, repeats: int) -> dict[str, dict[str, float]]:
    """Sinks -> milliseconds a frame of each way, and their ratio."""
    rows = {}
    for name in SINKS:
        check_equal(segmenter, clip, name, frames)
        times = [
            [seconds(way, segmenter, clip, name, frames) for way in (one_by_one, overlapping)]
            for _ in range(repeats)
        ]
        alone, threads = (1e3 * median(column) / frames for column in zip(*times, strict=True))
        ratio = median(pair[1] / pair[0] for pair in times)
        rows[name] = {
            "one_by_one": round(alone, 3),
            "overlapping": round(threads, 3),
            "ratio": round(ratio, 3),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", help="default: a network that computes next to nothing")
    parser.add_argument("--clip", type=Path, help="default: synthetic street scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(540, 960), metavar=("H", "W"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1, help="of the network")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = args.clip or drawn_clip(Path(folder) / "clip.mp4", args.frames, tuple(args.size))
        artifact = args.artifact or tiny.artifact(Path(folder))
        with Segmenter(artifact, threads=args.threads) as segmenter:
            segmenter.warmup()
            rows = measure(segmenter, clip, args.frames, args.repeats)
    machine = f"{cpu_model()}, {args.threads} network thread(s), OpenCV {cv2.getNumThreads()} thread(s)"
    if args.json:
        print(json.dumps({"machine": machine, "frames": args.frames, "ms": rows}, indent=2))
        return
    print(machine)
    print(f"{args.frames} frames, milliseconds a frame; ratio below 1: overlapping is faster")
    for name, row in rows.items():
        print(
            f"{name:>26} {row['one_by_one']:8.2f} one by one {row['overlapping']:8.2f} overlapping "
            f"{row['ratio']:6.2f}"
        )


if __name__ == "__main__":
    main()
