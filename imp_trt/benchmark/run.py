"""One measurement from beginning to end."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import manifest_path, read_artifact
from imp_trt.artifacts.manifest import Manifest
from imp_trt.backends.opening import BackendName
from imp_trt.benchmark import machine
from imp_trt.benchmark.compare import Comparison, PyTorchRival, Rival, compare, weights_of
from imp_trt.benchmark.frames import Feed, only_frames, open_feed
from imp_trt.benchmark.gates import Gate, frames_for, judge, unmeasured
from imp_trt.benchmark.measure import (
    LEAST_FRAMES,
    Latency,
    Stepper,
    Throughput,
    WarmUp,
    measure_latency,
    measure_throughput,
)
from imp_trt.benchmark.report import Report
from imp_trt.benchmark.samples import PERCENTILES
from imp_trt.cuda.platform import usable_cpus
from imp_trt.data.files import write_atomically
from imp_trt.errors import UsageError
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter


class Progress(Protocol):
    """Told what is done, how many frames or rounds of it, and of how many if that is known."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What to measure, and how.

    Attributes:
        path: artifact or checkpoint.
        backend, threads, device: as for Segmenter.
        source: image, folder, pattern or video; None for drawn streets.
        frame_size: (h, w) of drawn streets.
        seconds: how long to measure, and each comparison.
        frames: how many frames to measure instead.
        shares: percentiles to report, in percent.
        rivals: "pytorch", "peer".
        weights: the artifact's checkpoint, for "pytorch".
        work: folder for what the peer is exported to; None for one that goes away again.
    """

    path: Path
    backend: BackendName | None = None
    threads: int | None = None
    device: str | None = None
    source: str | None = None
    frame_size: tuple[int, int] | None = None
    warmup: WarmUp = field(default_factory=lambda: WarmUp(seconds=0.2))
    seconds: float = 3.0
    frames: int | None = None
    shares: tuple[float, ...] = PERCENTILES
    gates: tuple[Gate, ...] = ()
    rivals: tuple[str, ...] = ()
    weights: Path | None = None
    work: Path | None = None


def run_benchmark(
    settings: Settings,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], object] = time.sleep,
) -> Report:
    """Open, warm up, measure latency, then throughput, then the rivals; judge the gates.

    Args:
        clock, pause: seconds.

    Raises:
        UsageError: the settings contradict one another, or a gate asks for what is not measured.
        VerificationError: a rival answers differently.
        Whatever Segmenter and the source raise. A missed gate raises nothing here.
    """
    _check_gates(settings)
    feed = open_feed(settings.source, settings.frame_size)
    threads = _threads(settings)
    with ExitStack() as stack:
        begin = clock()
        segmenter = stack.enter_context(Segmenter(settings.path, settings.backend, threads, settings.device))
        load_ms = (clock() - begin) * 1e3
        manifest = segmenter.manifest
        absent = absent_stages(manifest, settings.device)
        _check_model(settings, manifest, absent)
        facts = machine.describe(backend_of(manifest), threads, gpu_of(manifest, settings.device))
        watch = machine.CpuWatch()
        stepper = Stepper(segmenter, feed, clock)
        latency, throughput = _measure(settings, segmenter, stepper, feed, clock, progress)
        comparisons = _compare(settings, segmenter, feed, clock, pause, progress)
        warning = machine.busy_warning(facts["load_average"], facts["cpus"], watch.others())
    report = Report(
        model=_model(settings.path, manifest),
        frames=_frames(feed, stepper),
        machine=facts,
        load_ms=load_ms,
        latency=latency,
        throughput=throughput,
        shares=settings.shares,
        absent=absent,
        comparisons=comparisons,
        warnings=[warning] if warning else [],
        measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return replace(report, verdicts=judge(settings.gates, report.values(settings.gates)))


def _measure(
    settings: Settings,
    segmenter: Segmenter,
    stepper: Stepper,
    feed: Feed,
    clock: Callable[[], float],
    progress: Progress,
) -> tuple[Latency, Throughput]:
    """The same number of frames one at a time, then through the pipeline."""
    latency = measure_latency(
        stepper.step,
        clock,
        warmup=settings.warmup,
        seconds=settings.seconds,
        frames=settings.frames,
        least=max(LEAST_FRAMES, frames_for(settings.gates)),
        progress=partial(progress, "latency", total=settings.frames),
    )
    count = max(len(latency.samples), LEAST_FRAMES)
    throughput = measure_throughput(
        segmenter,
        feed,
        clock,
        frames=count,
        shares=settings.shares,
        progress=partial(progress, "throughput", total=count),
    )
    return latency, throughput


def backend_of(manifest: Manifest) -> str:
    """The library that runs a file."""
    if manifest.engine is not None:
        return manifest.engine.backend
    return "pytorch" if manifest.kind == "checkpoint" else "onnxruntime"


def gpu_of(manifest: Manifest, device: str | None) -> int | None:
    """Number of the GPU that runs a file; None for the CPU.

    Args:
        device: as for Segmenter.
    """
    backend = backend_of(manifest)
    if backend == "onnxruntime" or device == "cpu":
        return None
    if backend == "pytorch":
        import torch

        if not torch.cuda.is_available():
            return None
    return int((device or "").partition(":")[2] or 0)


def absent_stages(manifest: Manifest, device: str | None) -> dict[str, str]:
    """Stages that a backend does not have or cannot tell apart, and why."""
    if manifest.engine is not None:
        return {}
    if gpu_of(manifest, device) is not None:
        reason = "PyTorch copies within infer"
    elif backend_of(manifest) == "onnxruntime":
        reason = "ONNX Runtime works in host memory; nothing is copied"
    else:
        reason = "PyTorch works on the CPU here; nothing is copied"
    return dict.fromkeys(("upload", "download"), reason)


def record(path: Path, report: Mapping[str, Any]) -> Path:
    """Put the figures into the artifact's manifest, as benchmark["imp_bench"]; nothing else changes there.

    Args:
        report: Report.to_dict().

    Raises:
        ArtifactError: file and manifest do not belong together.
        OutputError: the manifest cannot be written.
    """
    manifest = read_artifact(path).manifest
    frames = report["frames"]
    figures = {
        "machine": report["machine"],
        "measured": report["measured"],
        # A path says more about the measurer's disk than about the frames.
        "frames": {**frames, "source": os.path.basename(frames["source"].rstrip("/"))},
        "load_ms": report["load_ms"],
        "first_frame_ms": report["first_frame_ms"],
        "warm_up": report["warm_up"],
        "latency": report["latency"],
        "frames_per_second": report["throughput"]["frames_per_second"],
        "warnings": report["warnings"],
    }
    changed = replace(manifest, benchmark={**manifest.benchmark, "imp_bench": figures})
    return write_atomically(manifest_path(path), changed.to_json().encode())


def _check_gates(settings: Settings) -> None:
    """What cannot be judged is refused before minutes of measuring."""
    for gate in settings.gates:
        rival = gate.metric.removesuffix(".ratio")
        if rival != gate.metric and rival not in settings.rivals:
            raise UsageError(f"--assert {gate.text}", expected=f"--compare {rival} with it")
    needed = frames_for(settings.gates)
    if settings.frames is not None and settings.frames < needed:
        raise UsageError(
            "--frames with these gates",
            expected=f"at least {needed:,}: fewer say nothing about so high a percentile",
            got=settings.frames,
        )


def _check_model(settings: Settings, manifest: Manifest, absent: Mapping[str, str]) -> None:
    for gate in settings.gates:
        if gate.stage in absent:
            raise unmeasured(gate)
    if "pytorch" in settings.rivals:
        weights_of(manifest, settings.weights)


def _threads(settings: Settings) -> int | None:
    """Libraries choose different numbers by themselves; where they are compared, they get the same."""
    if settings.threads is None and settings.rivals and settings.path.suffix.lower() != ".engine":
        return usable_cpus()
    return settings.threads


def _compare(
    settings: Settings,
    segmenter: Segmenter,
    feed: Feed,
    clock: Callable[[], float],
    pause: Callable[[float], object],
    progress: Progress,
) -> list[Comparison]:
    """One rival after the other; each is opened when its turn comes, so that it disturbs nothing before."""

    def run(image: NDArray[np.uint8]) -> SegmentationResult:
        result = segmenter.run(image)
        _ = result.semantic, result.instances
        return result

    threads, found = _threads(settings), []
    for name in settings.rivals:
        with ExitStack() as stack:
            progress(f"opening {name}", 0, None)
            rival: Rival
            if name == "pytorch":
                weights = weights_of(segmenter.manifest, settings.weights)
                device = settings.device if segmenter.manifest.engine else "cpu"
                rival = PyTorchRival(weights, segmenter.manifest, run, threads, device)
            else:
                from imp_trt.benchmark.peer import PeerRival

                folder = settings.work or Path(
                    stack.enter_context(tempfile.TemporaryDirectory(prefix="imp_trt_bench_"))
                )
                rival = PeerRival(segmenter.manifest, threads, folder)
            stack.callback(rival.close)
            rounds = partial(progress, f"rounds against {name}", total=None)
            frames = only_frames(feed)
            found.append(compare(run, rival, frames, clock, pause, seconds=settings.seconds, progress=rounds))
    return found


def _frames(feed: Feed, stepper: Stepper) -> dict[str, Any]:
    return {
        "source": feed.name,
        "decoder": feed.decoder,
        "size": list(stepper.size),
        "sizes": stepper.sizes,
    }


def _model(path: Path, manifest: Manifest) -> dict[str, Any]:
    engine = manifest.engine
    backend = backend_of(manifest)
    versions = machine.versions()
    names = {"onnxruntime": "onnxruntime", "pytorch": "torch"}
    return {
        "file": path.name,
        "kind": manifest.kind,
        "sha256": manifest.sha256 or hashlib.sha256(path.read_bytes()).hexdigest(),
        "weights_sha256": manifest.weights_sha256,
        "backend": backend,
        "backend_version": engine.version if engine else versions.get(names[backend]),
        "precision": manifest.precision,
        "target": manifest.target,
        "network_size": [manifest.input.height, manifest.input.width],
        "batch": manifest.input.batch,
        "detections": manifest.detections,
        "classes": len(manifest.classes),
    }
