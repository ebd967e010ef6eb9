# SPDX-License-Identifier: Apache-2.0
"""Runs a complete benchmark: latency, throughput, comparisons and gates."""

from __future__ import annotations

import math
import os
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

from imp_trt._deprecated import renamed_fields
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.reading import read_artifact
from imp_trt.artifacts.writing import write_manifest
from imp_trt.backends.opening import BackendName
from imp_trt.benchmark import machine
from imp_trt.benchmark.compare import Baseline, Comparison, PyTorchBaseline, baseline_weights, compare
from imp_trt.benchmark.frames import Feed, only_frames, open_feed
from imp_trt.benchmark.gates import Gate, baseline_name, evaluate, frames_for, unmeasured
from imp_trt.benchmark.measure import (
    MIN_FRAMES,
    Latency,
    Stepper,
    Throughput,
    WarmUp,
    measure_latency,
    measure_throughput,
)
from imp_trt.benchmark.report import FramesInfo, ModelInfo, Report
from imp_trt.benchmark.samples import PERCENTILES, TEMPORAL_STAGES
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.files import temporary_folder
from imp_trt.errors import ArtifactError, UsageError
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.temporal import TemporalOptions


class Progress(Protocol):
    """Progress callback: name of the current part, frames or rounds done, and their total if it is known."""

    def __call__(self, what: str, done: int, total: int | None) -> None: ...


@renamed_fields(shares="percentiles", rivals="baselines", work="work_dir")
@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark.

    Attributes:
        path: artifact or checkpoint.
        backend, threads, device: see Segmenter.
        source: image, folder, pattern or video; None for synthetic streets.
        frame_size: (h, w) of synthetic streets.
        warmup: length of the warm-up.
        seconds: duration of the measurement, and of each comparison.
        frames: number of frames to measure instead.
        percentiles: percentiles to report, 0 to 100.
        gates: conditions to evaluate.
        baselines: models to compare with, of "pytorch" and "maskrcnn".
        weights: the artifact's checkpoint, for "pytorch".
        work_dir: folder for the exported Mask R-CNN; None for a temporary folder.
        temporal: runs the detector on some frames; None on all. On synthetic streets, which have nothing to
            do with each other, no change counts as a cut.
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
    percentiles: tuple[float, ...] = PERCENTILES
    gates: tuple[Gate, ...] = ()
    baselines: tuple[str, ...] = ()
    weights: Path | None = None
    work_dir: Path | None = None
    temporal: TemporalOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "baselines", tuple(baseline_name(name) for name in self.baselines))


def run_benchmark(
    settings: Settings,
    progress: Progress,
    clock: Callable[[], float] = time.perf_counter,
    pause: Callable[[float], object] = time.sleep,
) -> Report:
    """Load the model, measure latency and throughput, compare with the baselines, and evaluate the gates.

    A missed gate does not raise; see :func:`imp_trt.benchmark.gates.enforce`.

    Args:
        clock, pause: time.perf_counter and time.sleep, or replacements for tests.

    Raises:
        UsageError: the settings are inconsistent, or a gate needs a metric that is not measured.
        VerificationError: the outputs of a baseline differ.
        ImpTrtError: see Segmenter and open_source.
    """
    _check_gates(settings)
    feed = open_feed(settings.source, settings.frame_size)
    threads = _threads(settings)
    with ExitStack() as stack:
        begin = clock()
        segmenter = stack.enter_context(Segmenter(settings.path, settings.backend, threads, settings.device))
        load_ms = (clock() - begin) * 1e3
        manifest = segmenter.manifest
        temporal = _temporal(settings, segmenter)
        absent = absent_stages(manifest, settings.device, settings.backend)
        if temporal is not None:
            absent |= dict.fromkeys(("upload", "download"), "included in infer with --detect-every")
        _check_model(settings, manifest, absent)
        backend = backend_of(manifest, settings.backend)
        info = machine.describe(backend, threads, gpu_of(manifest, settings.device, backend))
        monitor = machine.CpuMonitor()
        stepper = Stepper(segmenter, feed, clock, temporal=temporal)
        latency, throughput = _measure(settings, segmenter, stepper, feed, clock, progress, temporal)
        comparisons = _compare(settings, segmenter, feed, clock, pause, progress)
        warning = machine.busy_warning(info["load_average"], info["cpus"], monitor.others())
    report = Report(
        model=_model(settings.path, manifest, backend),
        frames=_frames(feed, stepper),
        machine=info,
        load_ms=load_ms,
        latency=latency,
        throughput=throughput,
        percentiles=settings.percentiles,
        absent=absent,
        comparisons=comparisons,
        warnings=[warning] if warning else [],
        measured=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return replace(report, verdicts=evaluate(settings.gates, report.values(settings.gates)))


def _measure(
    settings: Settings,
    segmenter: Segmenter,
    stepper: Stepper,
    feed: Feed,
    clock: Callable[[], float],
    progress: Progress,
    temporal: TemporalOptions | None,
) -> tuple[Latency, Throughput]:
    """Measure latency, then throughput with the same number of frames."""
    latency = measure_latency(
        stepper.step,
        clock,
        warmup=settings.warmup,
        seconds=settings.seconds,
        frames=settings.frames,
        min_frames=max(MIN_FRAMES, frames_for(settings.gates)),
        progress=partial(progress, "latency", total=settings.frames),
    )
    count = max(len(latency.samples), MIN_FRAMES)
    throughput = measure_throughput(
        segmenter,
        feed,
        clock,
        frames=count,
        percentiles=settings.percentiles,
        progress=partial(progress, "throughput", total=count),
        temporal=temporal,
    )
    return latency, throughput


def _temporal(settings: Settings, segmenter: Segmenter) -> TemporalOptions | None:
    """The options of the measurement; the canvas part is open then."""
    if settings.temporal is None:
        return None
    segmenter.open_canvas()
    return settings.temporal if settings.source else replace(settings.temporal, cut_change=math.inf)


def backend_of(manifest: Manifest, chosen: BackendName | None = None) -> BackendName:
    """Return the name of the library that runs a model file.

    Args:
        chosen: the backend that was asked for; None if the file decides.
    """
    if chosen is not None:
        return chosen
    if manifest.engine is not None:
        return manifest.engine.backend
    return "pytorch" if manifest.kind == "checkpoint" else "onnxruntime"


def gpu_of(manifest: Manifest, device: str | None, chosen: BackendName | None = None) -> int | None:
    """Return the index of the GPU that runs a model file; None for the CPU.

    Args:
        device: see Segmenter.
        chosen: see backend_of.
    """
    backend = backend_of(manifest, chosen)
    if device == "cpu" or (backend in ("onnxruntime", "openvino") and device is None):
        return None
    if backend == "pytorch":
        import torch

        if not torch.cuda.is_available():
            return None
    return int((device or "").partition(":")[2] or 0)


def absent_stages(
    manifest: Manifest, device: str | None, chosen: BackendName | None = None
) -> dict[str, str]:
    """Return the stages that a backend does not have or does not measure separately, with reasons."""
    if manifest.engine is not None:
        return {}
    title = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}.get(backend_of(manifest, chosen))
    if gpu_of(manifest, device, chosen) is not None:
        reason = f"included in infer with {title or 'PyTorch'}"
    elif title:
        reason = f"{title} uses host memory; nothing is copied"
    else:
        reason = "PyTorch runs on the CPU; nothing is copied"
    return dict.fromkeys(("upload", "download"), reason)


def record(path: Path, report: Mapping[str, Any]) -> Path:
    """Write the results into the artifact's manifest, as benchmark["imp_bench"].

    Args:
        report: Report.to_dict(), possibly read back from JSON.

    Raises:
        ArtifactError: the manifest does not belong to the file, or the file is not the one that was measured.
        OutputError: the manifest cannot be written.
    """
    artifact = read_artifact(path)
    measured = report["model"]["sha256"]
    if artifact.manifest.sha256 != measured:
        raise ArtifactError(
            f"artifact {path}, replaced since it was measured",
            expected=f"the file that was measured, sha256 {measured}",
            got=artifact.manifest.sha256,
            fix="measure it again",
        )
    frames = report["frames"]
    figures = {
        "machine": report["machine"],
        "backend": report["model"]["backend"],
        "measured": report["measured"],
        # The file name only, because the path depends on the machine.
        "frames": {**frames, "source": os.path.basename(frames["source"].rstrip("/"))},
        "load_ms": report["load_ms"],
        "first_frame_ms": report["first_frame_ms"],
        "warm_up": report["warm_up"],
        "latency": report["latency"],
        **({"canvas": report["canvas"]} if report.get("canvas") else {}),
        "frames_per_second": report["throughput"]["frames_per_second"],
        "warnings": report["warnings"],
    }
    benchmark = {**artifact.manifest.benchmark, "imp_bench": figures}
    return write_manifest(artifact, replace(artifact.manifest, benchmark=benchmark))


def _check_gates(settings: Settings) -> None:
    """Reject gates that cannot be evaluated, before anything is measured."""
    for gate in settings.gates:
        baseline = gate.metric.removesuffix(".ratio")
        if baseline != gate.metric and baseline not in settings.baselines:
            raise UsageError(f"--assert {gate.text}", expected=f"--compare {baseline} with it")
        if gate.stage in TEMPORAL_STAGES and settings.temporal is None:
            raise UsageError(f"--assert {gate.text}", expected="--detect-every with it")
    needed = frames_for(settings.gates)
    if settings.frames is not None and settings.frames < needed:
        raise UsageError(
            "--frames with these gates",
            expected=f"at least {needed:,} for these percentiles",
            got=settings.frames,
        )


def _check_model(settings: Settings, manifest: Manifest, absent: Mapping[str, str]) -> None:
    for gate in settings.gates:
        if gate.stage in absent:
            raise unmeasured(gate)
    if "pytorch" in settings.baselines:
        baseline_weights(manifest, settings.weights)


def _threads(settings: Settings) -> int | None:
    """Number of threads. The defaults of the libraries differ, so comparisons set the number explicitly."""
    if settings.threads is None and settings.baselines and settings.path.suffix.lower() != ".engine":
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
    """Compare with one baseline after the other; each is loaded only when it is needed."""

    def run(image: NDArray[np.uint8]) -> SegmentationResult:
        result = segmenter.run(image)
        _ = result.semantic, result.instances
        return result

    threads, comparisons = _threads(settings), []
    for name in settings.baselines:
        with ExitStack() as stack:
            progress(f"opening {name}", 0, None)
            baseline: Baseline
            if name == "pytorch":
                weights = baseline_weights(segmenter.manifest, settings.weights)
                device = settings.device if segmenter.manifest.engine else "cpu"
                baseline = PyTorchBaseline(weights, segmenter.manifest, run, threads, device)
            else:
                from imp_trt.benchmark.maskrcnn import MaskRCNNBaseline

                folder = settings.work_dir or stack.enter_context(temporary_folder("imp_trt_bench_"))
                baseline = MaskRCNNBaseline(segmenter.manifest, threads, folder)
            stack.callback(baseline.close)
            rounds = partial(progress, f"rounds against {name}", total=None)
            frames = only_frames(feed)
            comparisons.append(
                compare(run, baseline, frames, clock, pause, seconds=settings.seconds, progress=rounds)
            )
    return comparisons


def _frames(feed: Feed, stepper: Stepper) -> FramesInfo:
    return {
        "source": feed.name,
        "decoder": feed.decoder,
        "size": list(stepper.size),
        "sizes": stepper.sizes,
    }


def _model(path: Path, manifest: Manifest, backend: BackendName) -> ModelInfo:
    engine = manifest.engine
    versions = machine.versions()
    packages = ("torch",) if backend == "pytorch" else (backend, f"{backend}-gpu")
    return {
        "file": path.name,
        "kind": manifest.kind,
        "sha256": manifest.sha256 or manifest.weights_sha256,  # of a checkpoint, which may have been replaced
        "weights_sha256": manifest.weights_sha256,
        "backend": backend,
        "backend_version": engine.version
        if engine
        else next((versions[name] for name in packages if name in versions), None),
        "precision": manifest.precision,
        "target": manifest.target,
        "network_size": [manifest.input.height, manifest.input.width],
        "batch": manifest.input.batch,
        "detections": manifest.detections,
        "classes": len(manifest.classes),
    }
