# SPDX-License-Identifier: Apache-2.0
"""Segment a folder of videos on a Ray cluster or on this machine.

python samples/ray_bulk/ray_bulk.py street.fp32.onnx recordings/ -o results/ --workers 4 --cpus 2

Every video becomes results/<its path>.jsonl, one line per frame; until it is complete, the file is
named <its path>.jsonl.partial. A second run processes the remaining videos. A video that cannot be read,
or that crashes its worker, does not end the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from imp_trt import ImpTrtError, Segmenter, TemporalOptions
from imp_trt.artifacts import read_manifest
from imp_trt.data import write_atomically
from imp_trt.errors import InvalidInput, SourceError
from imp_trt.video import open_source, run_pipeline
from imp_trt.video.sinks import JsonLines
from imp_trt.video.sources import VIDEO_SUFFIXES

Task = tuple[Path, Path]  # a video and its output file


def unfinished(folder: Path, output: Path) -> list[Task]:
    """Return the videos without results, the largest first for load balancing.

    Raises:
        SourceError: there are no videos.
    """
    videos = [path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise SourceError(f"videos below {folder}", expected=", ".join(sorted(VIDEO_SUFFIXES)), got="none")
    tasks = [(path, output / path.relative_to(folder).with_name(f"{path.name}.jsonl")) for path in videos]
    left = (task for task in tasks if not task[1].exists())
    return sorted(left, key=lambda task: (-task[0].stat().st_size, task[0]))


def claim(output: Path, artifact: Path, detect_every: int) -> None:
    """Note in the folder what its results are of; ImpTrtError if they are of another network."""
    manifest, note = read_manifest(artifact), output / "network.txt"
    network = f"{manifest.weights_sha256} {manifest.precision} detect_every={detect_every}"
    ours = f"{network} file={manifest.sha256}"  # exports of the same weights differ, such as in calibration
    if note.exists() and (theirs := note.read_text()) not in (ours, network):  # the latter of earlier runs
        raise InvalidInput(str(output), expected=f"results of {ours}", got=theirs, fix="another folder as -o")
    write_atomically(note, ours.encode())


class Worker:
    """Ray actor with one network, which stays loaded between videos.

    Args:
        artifact: an .onnx file, or an engine for the GPUs of the cluster.
        threads: CPU threads of the network; None for an engine.
        detect_every: the detector runs on every detect_every-th frame; above 1 the artifact needs its canvas
            part (imp-export --parts).
    """

    def __init__(self, artifact: str, threads: int | None, detect_every: int = 1) -> None:
        self._segmenter = Segmenter(artifact, threads=threads)
        self._temporal = TemporalOptions(detect_every) if detect_every > 1 else None

    def segment(self, video: str, results: str) -> dict[str, Any]:
        """Segment one video; returns statistics, or {"error": message}."""
        # JsonLines keeps what a killed worker has written, so its file gets the final name afterwards.
        partial = f"{results}.partial"
        try:
            with open_source(video) as source:
                sinks = [JsonLines(partial)]
                summary = run_pipeline(self._segmenter, source, sinks, temporal=self._temporal)
            Path(partial).replace(results)
        except (ImpTrtError, OSError) as error:
            # Such as a damaged video; the worker continues with the next one.
            return {"error": str(error)}
        return {"frames": summary.frames, "seconds": summary.seconds}


def start_workers(options: argparse.Namespace) -> list[Any]:
    """Start the actors; Ray places them on free CPUs and GPUs and restarts them after a crash."""
    # max_task_retries: a video whose worker crashed is retried once.
    actor = ray.remote(max_restarts=-1, max_task_retries=1)(Worker)
    threads = None if options.artifact.suffix == ".engine" else options.cpus
    placed = actor.options(num_cpus=options.cpus, num_gpus=options.gpus)
    artifact = str(options.artifact.absolute())
    return [placed.remote(artifact, threads, options.detect_every) for _ in range(options.workers)]


def run(workers: list[Any], tasks: list[Task]) -> dict[str, str]:
    """Process all tasks; returns failed video -> reason."""
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
        except RayError as error:  # the worker crashed twice
            figures = {"error": f"{type(error).__name__}: {error}"}
        if "error" in figures:
            failed[video] = figures["error"]
        done_text = "FAILED" if "error" in figures else "{frames} frames in {seconds:.1f} s".format(**figures)
        print(f"[{done}/{len(tasks)}] {video}: {done_text}", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("videos", type=Path, help="folder, searched recursively")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="number of workers (default: 1)")
    parser.add_argument("--cpus", type=int, default=1, help="CPUs per worker (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs per worker, 1 for an engine (default: 0)")
    parser.add_argument("--detect-every", type=int, default=1, help="run the detector on every n-th frame")
    parser.add_argument("--address", help="address of a Ray cluster, or 'auto' (default: this machine)")
    options = parser.parse_args(arguments)
    try:
        tasks = unfinished(options.videos, options.output)
        claim(options.output, options.artifact, options.detect_every)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if not tasks:
        print("nothing left to do")
        return 0
    address = options.address
    with ray.init(address=address) if address else ray.init(include_dashboard=False):
        failed = run(start_workers(options), tasks)
    for video, reason in failed.items():
        print(f"{video}: {reason}", file=sys.stderr)
    print(f"{len(tasks) - len(failed)} videos done, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
