# SPDX-License-Identifier: Apache-2.0
"""Soak: a camera that is unplugged again and again, and how much memory, threads and files the run gathers.

    python -m tests.bench.soak [--minutes 30] [--unplug-every 30] [--fps 25] [--artifact FILE] [--clip FILE]
                               [--json] [--max-growth 5]

The camera plays a clip (or drawn images) in a loop at its own pace through imp_trt's LiveSource; every
30 s it is unplugged: reads fail, and it cannot be opened for two seconds. Overlays are drawn and encoded as
JPEG, JSON lines go to /dev/null. Memory is the resident set of the process once a second; growth is the
median of the last sixth of the run less the median of the first sixth after the warm-up; so is the drift of
the age of results. ``--leak BYTES``
keeps that much of every frame, to show that the soak notices. The sink stalls for a second in the middle of
the warm-up, so that every queue has been full once: what they hold at most is no growth, and the allocator
does not give it back. Exit code 1: growth above --max-growth MB, threads or files left over, or an account
that does not add up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.errors import SourceError
from imp_trt.segmenter import Segmenter
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import BaseSink, JsonLines, SegmentedFrame, Sink
from imp_trt.video.sources.live import LiveSource
from tests.support import tiny

_AWAY_S = 2.0
_STALL_S = 1.0


class LoopedCamera:
    """What LiveSource opens: images in a loop at a steady pace, away for a while every so often."""

    def __init__(
        self, pictures: Sequence[NDArray[np.uint8]], fps: float, unplug_every_s: float, away_s: float
    ) -> None:
        self._pictures, self._fps, self._every, self._away = pictures, fps, unplug_every_s, away_s
        self._start = time.monotonic()
        self._number = 0

    def open(self) -> LoopedCamera:
        """As its device file would: SourceError while it is away."""
        if self._is_away():
            raise SourceError("camera", expected="a device", got="none")
        return self

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self._number += 1
        late = self._start + self._number / self._fps - time.monotonic()
        if late > 0:
            time.sleep(late)
        else:
            self._number -= int(late * self._fps)  # no hurry after an absence
        if self._is_away():
            return False, None
        return True, self._pictures[self._number % len(self._pictures)].copy()

    def get(self, prop: int, /) -> float:
        return self._fps if prop == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass

    def _is_away(self) -> bool:
        passed = time.monotonic() - self._start
        return passed > self._every and passed % self._every < self._away


class Encoded(BaseSink):
    """Overlays as JPEG, thrown away; stalls at the given moments; optionally a planted leak."""

    draws = True

    def __init__(self, leak_bytes: int, stalls_s: Sequence[float]) -> None:
        self._leak_bytes = leak_bytes
        self._leaked: list[bytes] = []
        self._stalls = [time.monotonic() + moment for moment in stalls_s]
        self.ages_s = array("d")  # eight bytes a frame: lists of floats would grow as a leak does

    def write(self, item: SegmentedFrame) -> bool:
        if self._stalls and time.monotonic() >= self._stalls[0]:
            self._stalls.pop(0)
            time.sleep(_STALL_S)
        cv2.imencode(".jpg", item.overlay)
        if item.age_s is not None:
            self.ages_s.append(item.age_s)
        if self._leak_bytes:
            self._leaked.append(os.urandom(self._leak_bytes))
        return True


class Gauge:
    """Samples of the process, at most one a second (or a hundredth of a short run), as the run reports."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = min(1.0, seconds / 100)
        self._clock = clock
        self.start = clock()
        self.at: list[float] = []
        self.memory: list[float] = []
        self.threads: list[int] = []
        self.files: list[int] = []
        self.torn = 0

    def look(self, snapshot: dict[str, Any]) -> None:
        now = self._clock() - self.start
        known = snapshot["delivered"] + snapshot["dropped"] + snapshot["in_flight"]
        self.torn += snapshot["captured"] != known
        if self.at and now - self.at[-1] < self._every:
            return
        self.at.append(now)
        self.memory.append(resident_mb())
        self.threads.append(threading.active_count())
        self.files.append(len(os.listdir("/proc/self/fd")))

    def growth_mb(self, warmup_s: float) -> float:
        """Median of the last sixth less that of the first sixth, after the warm-up."""
        after = [mb for at, mb in zip(self.at, self.memory, strict=True) if at >= warmup_s]
        part = max(len(after) // 6, 1)
        return median(after[-part:]) - median(after[:part])

    def by_minute_mb(self) -> list[float]:
        """Median memory of each minute."""
        minutes: dict[int, list[float]] = {}
        for at, mb in zip(self.at, self.memory, strict=True):
            minutes.setdefault(int(at // 60), []).append(mb)
        return [round(median(values), 1) for values in minutes.values()]


def drift_ms(ages_s: Sequence[float], warmup: float) -> float:
    """Median age of the last sixth of the frames less that of the first sixth behind the warm-up's share."""
    after = ages_s[int(len(ages_s) * min(warmup, 0.5)) :]
    part = max(len(after) // 6, 1)
    return 1e3 * (median(after[-part:]) - median(after[:part])) if after else 0.0


def resident_mb() -> float:
    """The process's resident set, in units of 1e6 bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(
    artifact: str | os.PathLike[str],
    pictures: Sequence[NDArray[np.uint8]],
    *,
    seconds: float,
    unplug_every_s: float,
    away_s: float = _AWAY_S,
    fps: float = 25.0,
    warmup_s: float = 60.0,
    stalls_s: Sequence[float] | None = None,
    leak_bytes: int = 0,
    threads: int | None = 1,
) -> dict[str, Any]:
    """Run for so long and report as plain data.

    Args:
        stalls_s: when the sink stalls; default: once, in the middle of the warm-up.
    """
    gauge = Gauge(seconds)
    stalls = [warmup_s / 2] if stalls_s is None else stalls_s

    def look(snapshot: dict[str, Any]) -> bool:
        gauge.look(snapshot)
        return time.monotonic() - gauge.start < seconds

    with Segmenter(artifact, threads=threads) as segmenter:
        segmenter.warmup()  # the libraries have their own threads and files
        # By identity: a thread of something that ran before may end meanwhile.
        before = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
        encoded = Encoded(leak_bytes, stalls)
        sinks: list[Sink] = [encoded, JsonLines("/dev/null")]
        camera = LoopedCamera(pictures, fps, unplug_every_s, away_s)
        with LiveSource("soak", camera.open) as source:
            summary = run_pipeline(segmenter, source, sinks, on_progress=look, deadline_s=0.2)
        after = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "growth_mb": round(gauge.growth_mb(warmup_s), 3),
        "memory_mb": [round(mb, 1) for mb in (gauge.memory[0], min(gauge.memory), max(gauge.memory))],
        "memory_by_minute_mb": gauge.by_minute_mb(),
        "age_drift_ms": round(drift_ms(encoded.ages_s, warmup_s / seconds), 2),
        "warmup_s": warmup_s,
        "most_threads": max(gauge.threads),
        "most_files": max(gauge.files),
        "threads_left": len(after[0] - before[0]),
        "files_left": after[1] - before[1],
        "torn_accounts": gauge.torn + (summary.captured != summary.frames + summary.dropped),
        **summary.to_dict(),
    }


def _pictures(clip: str | None) -> list[NDArray[np.uint8]]:
    if clip is None:
        return [tiny.frame(540, 960, seed) for seed in range(8)]
    with open_source(clip) as source:
        return [frame.image for frame, _ in zip(source, range(50), strict=False)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--unplug-every", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--warmup", type=float, default=60, metavar="SECONDS")
    parser.add_argument(
        "--stall-at", type=float, nargs="*", metavar="SECONDS", help="default: in the warm-up"
    )
    parser.add_argument("--artifact", help="default: a network that computes next to nothing")
    parser.add_argument("--clip", help="default: drawn images of 960x540")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--leak", type=int, default=0, metavar="BYTES")
    parser.add_argument("--max-growth", type=float, default=5, metavar="MB")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(
            args.artifact or tiny.artifact(Path(folder)),
            _pictures(args.clip),
            seconds=args.minutes * 60,
            unplug_every_s=args.unplug_every,
            fps=args.fps,
            warmup_s=args.warmup,
            stalls_s=args.stall_at,
            leak_bytes=args.leak,
            threads=args.threads,
        )
    left = report["threads_left"] or report["files_left"] or report["torn_accounts"]
    passed = report["growth_mb"] <= args.max_growth and not left
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        first, least, most = report["memory_mb"]
        age = report["age_ms"]
        print(f"ran        {report['seconds'] / 60:.1f} min, {report['reconnects']} reconnections")
        print(f"memory     {first} MB at first, {least}-{most} MB; growth {report['growth_mb']:+.2f} MB")
        print(f"by minute  {' '.join(f'{mb:.0f}' for mb in report['memory_by_minute_mb'])} MB")
        print(
            f"frames     {report['captured']} captured, {report['frames']} delivered, "
            f"{report['dropped']} dropped; torn accounts {report['torn_accounts']}"
        )
        print(
            f"age        p50 {age['p50']:.1f}, p99 {age['p99']:.1f}, p99.9 {age['p99.9']:.1f} ms; "
            f"drift {report['age_drift_ms']:+.2f} ms"
        )
        print(f"left over  {report['threads_left']} threads, {report['files_left']} files")
        print("PASSED" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
