"""Segment a folder of videos on all workers of a Ray cluster, or of this machine.

python samples/ray_bulk/ray_bulk.py street.fp32.onnx recordings/ -o results/ --workers 4 --cpus 2

Every video becomes results/<its path>.jsonl, one line per frame. A second run does what the first did not
finish: a file appears when it is whole. A video that cannot be read, or that takes its worker with it, does
not end the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from imp_trt import ImpTrtError, Segmenter
from imp_trt.artifacts import read_manifest
from imp_trt.errors import SourceError
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import JsonLines
from imp_trt.video.sources import VIDEO_SUFFIXES

Task = tuple[Path, Path]  # a video, and the file that its results go to


def unfinished(folder: Path, output: Path) -> list[Task]:
    """The videos below a folder whose results are not there yet; the largest first, to end together.

    Raises:
        SourceError: there are no videos.
    """
    videos = [path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise SourceError(
            f"videos below {folder}", expected=f"files {', '.join(sorted(VIDEO_SUFFIXES))}", got="none"
        )
    tasks = [(path, output / path.relative_to(folder).with_name(f"{path.name}.jsonl")) for path in videos]
    left = [task for task in tasks if not task[1].exists()]
    return sorted(left, key=lambda task: (-task[0].stat().st_size, task[0]))


class Worker:
    """One process with one network, which stays loaded from video to video.

    Args:
        artifact: an .onnx file, or an engine for the GPUs of the cluster.
        threads: CPU threads of the network; None for an engine.
    """

    def __init__(self, artifact: str, threads: int | None) -> None:
        self._segmenter = Segmenter(artifact, threads=threads)

    def segment(self, video: str, results: str) -> dict[str, Any]:
        """Segments one video; figures of the run, or {"error": why not}."""
        try:
            with open_source(video) as source:
                summary = run_pipeline(self._segmenter, source, [JsonLines(results)])
        except ImpTrtError as error:  # a damaged video: the next one is served by this worker, too
            return {"error": str(error)}
        return {"frames": summary.frames, "seconds": summary.seconds}


def start_workers(options: argparse.Namespace) -> list[Any]:
    """Ray starts them where CPUs and GPUs are free, and anew when their process ends."""
    # max_task_retries: a video whose worker ended, by a lost machine for instance, is tried once more.
    actor = ray.remote(max_restarts=-1, max_task_retries=1)(Worker)
    threads = None if options.artifact.suffix == ".engine" else options.cpus
    placed = actor.options(num_cpus=options.cpus, num_gpus=options.gpus)
    return [placed.remote(str(options.artifact.absolute()), threads) for _ in range(options.workers)]


def run(workers: list[Any], tasks: list[Task]) -> dict[str, str]:
    """Keep every worker busy until all is done; what failed: video -> why."""
    waiting, idle, busy = list(tasks), list(workers), {}
    failed: dict[str, str] = {}
    for done in range(1, len(tasks) + 1):
        while waiting and idle:
            worker, task = idle.pop(), waiting.pop(0)
            video, results = (str(path.absolute()) for path in task)
            busy[worker.segment.remote(video, results)] = worker, video
        (ready, *_), _ = ray.wait(list(busy))
        worker, video = busy.pop(ready)
        idle.append(worker)
        try:
            figures: dict[str, Any] = ray.get(ready)
        except RayError as error:  # the worker died twice, or has a fault of its own
            figures = {"error": f"{type(error).__name__}: {error}"}
        if "error" in figures:
            failed[video] = figures["error"]
            print(f"[{done}/{len(tasks)}] {video}: FAILED", flush=True)
        else:
            speed = figures["frames"] / max(figures["seconds"], 1e-9)
            print(f"[{done}/{len(tasks)}] {video}: {figures['frames']} frames, {speed:.1f}/s", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, help="folder; those below it are found, too")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="networks that run at a time; default 1")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs of each; default 1")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each, 1 for an engine; default 0")
    parser.add_argument("--address", help="of a Ray cluster, or 'auto'; default: Ray on this machine alone")
    options = parser.parse_args(arguments)
    try:
        read_manifest(options.artifact)  # here, not in every worker
        tasks = unfinished(options.videos, options.output)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not tasks:
        print("nothing left to do")
        return 0
    if options.address:
        ray.init(address=options.address)
    else:
        ray.init(include_dashboard=False)
    try:
        failed = run(start_workers(options), tasks)
    finally:
        ray.shutdown()
    for video, reason in failed.items():
        print(f"{video}: {reason}", file=sys.stderr)
    print(f"{len(tasks) - len(failed)} videos done, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
