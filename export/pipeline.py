"""From trained weights to a verified artifact: export, compare, and only then write."""

from __future__ import annotations

import logging
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

import imp_trt
from imp_trt.artifact import Manifest, read_manifest, write_artifact
from imp_trt.errors import OutputError, UsageError
from imp_trt.export.frames import MIN_FRAMES, VerificationFrames
from imp_trt.export.onnx_from_model import onnx_from_module, operators_of
from imp_trt.export.verify import GATES, Agreement, Detected, enforce
from imp_trt.models.checkpoint import load_model
from imp_trt.models.deploy import DeployModule
from imp_trt.models.nms import DEFAULT_PASSES
from imp_trt.resize import Fit
from imp_trt.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from imp_trt.train.evaluate import ConfusionMatrix

PRECISIONS = tuple(GATES)
TARGETS = ("onnxruntime", "tensorrt-rtx", "tensorrt")

VERIFIED_ON = {"onnxruntime": "onnxruntime-cpu"}

_log = logging.getLogger(__name__)


Progress = Callable[[str, int, int], None]
"""Called as the work goes on: what is being done ("export", "verify"), steps done, steps in all."""


@dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        path: the artifact.
        manifest: its manifest, verification figures included.
        seconds: time it took.
    """

    path: Path
    manifest: Manifest
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "artifact": str(self.path),
            "manifest": f"{self.path}.json",
            "precision": self.manifest.precision,
            "target": self.manifest.target,
            "verification": dict(self.manifest.verification),
            "benchmark": dict(self.manifest.benchmark),
            "seconds": round(self.seconds, 1),
        }


def export_onnx(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str] = ".",
    precision: str = "fp32",
    target: str = "onnxruntime",
    frames: str | os.PathLike[str] | None = None,
    batch: int = 1,
    verify: bool = True,
    frame_count: int = MIN_FRAMES,
    passes: int = DEFAULT_PASSES,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a checkpoint to an ONNX artifact that has been verified against PyTorch.

    Both networks see the same frames through a Segmenter each, resizing included. Nothing is written
    before every gate has passed.

    Args:
        weights: checkpoint (.safetensors, .pt).
        output: a folder, in which the file is called ``<weights>.<precision>.onnx``, or a ``.onnx`` file.
        precision: "fp32".
        target: "onnxruntime".
        frames: folder of images to verify on, filled up to frame_count with procedural scenes.
        batch: frames per network call, fixed in the file.
        verify: False writes the file unverified and says so in its manifest.
        frame_count: frames to verify on.
        passes: passes of each fixed-point NMS.
        progress: called as the work goes on.

    Raises:
        UsageError: the precision or the target is not available.
        CheckpointError: the weights are missing or damaged.
        SourceError: the folder of frames is missing or empty.
        ExportError: the network cannot be expressed in the exported graph.
        VerificationError: a gate failed.
        OutputError: the output cannot be written.
    """
    start = time.perf_counter()
    check_available(precision, target)
    weights = Path(weights)
    path = _output_path(weights, Path(output), precision)
    chosen = VerificationFrames(None if frames is None else Path(frames), frame_count)
    chosen.check()
    report = progress or (lambda stage, done, total: None)
    report("export", 0, 1)
    network, _ = load_model(weights)
    module = DeployModule(network, passes)
    model = onnx_from_module(module, batch)
    payload = model.SerializeToString(deterministic=True)
    report("export", 1, 1)
    with Segmenter(weights, "pytorch", device="cpu") as reference:
        manifest = replace(
            reference.manifest,
            kind="onnx",
            input=replace(reference.manifest.input, batch=batch),
            outputs=(),
            precision=precision,
            target=target,
            ops=operators_of(model),
            opset=next(o.version for o in model.opset_import if o.domain == ""),
            producer=_producer(),
            verification={"verified_on": None, "skipped": "by request (--no-verify)"},
        )
        if verify:
            agreement, times = _compare(reference, manifest, payload, module, chosen, report)
            enforce(agreement, precision)
            manifest = replace(
                manifest,
                verification={
                    "verified_on": VERIFIED_ON[target],
                    "against": "pytorch fp32",
                    "source": chosen.description,
                    **agreement.to_dict(GATES[precision]),
                },
                benchmark=times,
            )
    write_artifact(path, payload, manifest)
    return ExportReport(path, read_manifest(path), time.perf_counter() - start)


def check_available(precision: str, target: str) -> None:
    """Raise UsageError, with what to ask for instead, for a combination that this version cannot make."""
    if precision not in PRECISIONS:
        raise UsageError("precision", expected=f"one of {', '.join(PRECISIONS)}", got=precision)
    if target not in TARGETS:
        raise UsageError("target", expected=f"one of {', '.join(TARGETS)}", got=target)
    if target != "onnxruntime":
        raise UsageError(
            f"target {target} is not available in imp-trt {imp_trt.__version__}",
            expected="onnxruntime",
            got=target,
            fix="imp-export --engine fp32 --target onnxruntime; the ONNX file holds no TensorRT engine",
        )
    if precision != "fp32":
        raise UsageError(
            f"precision {precision} is not available for target {target}",
            expected="fp32",
            got=precision,
            fix="imp-export --engine fp32 (on a CPU the lower precisions are slower, not faster)",
        )


def _compare(
    reference: Segmenter,
    manifest: Manifest,
    payload: bytes,
    module: DeployModule,
    frames: VerificationFrames,
    report: Progress,
) -> tuple[Agreement, dict[str, Any]]:
    """Run both networks over the frames; agreement, and median network times in ms."""
    agreement = Agreement()
    known = [ConfusionMatrix(len(manifest.classes)) for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    batch = manifest.input.batch
    with tempfile.TemporaryDirectory(prefix="imp_trt_export_") as folder:
        # The reference has already told the terms.
        candidate_manifest = replace(manifest, terms=None)
        temporary = write_artifact(Path(folder) / "candidate.onnx", payload, candidate_manifest)
        with Segmenter(temporary, "onnxruntime") as candidate:
            for chunk in _chunks(frames.load(manifest.classes), batch):
                images = [image for image, _ in chunk]
                pairs = zip(reference.run_batch(images), candidate.run_batch(images), strict=True)
                for (image, truth), results in zip(chunk, pairs, strict=True):
                    agreement.add((results[0].semantic, results[1].semantic), _detected(results))
                    agreement.unsettled += module.unsettled(_network_frame(image, manifest))
                    for result, milliseconds in zip(results, times, strict=True):
                        milliseconds.append(result.timing["infer"])
                    if truth is not None:
                        for result, matrix in zip(results, known, strict=True):
                            matrix.add(truth, result.semantic)
                report("verify", agreement.frames, len(frames))
    if known[0].counts.any():
        values = [matrix.scores(manifest.classes).mean_iou for matrix in known]
        agreement.miou = {"reference": values[0], "candidate": values[1]}
    return agreement, _benchmark(times, batch)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _detected(results: tuple[SegmentationResult, SegmentationResult]) -> tuple[Detected, Detected]:
    first, second = (r.instances for r in results)
    return (
        Detected(first.boxes, first.labels, first.scores),
        Detected(second.boxes, second.labels, second.scores),
    )


def _network_frame(image: NDArray[np.uint8], manifest: Manifest) -> torch.Tensor:
    fit = Fit.of((image.shape[0], image.shape[1]), manifest.input)
    return torch.from_numpy(np.ascontiguousarray(fit.forward(image))).unsqueeze(0)


def _benchmark(times: tuple[list[float], list[float]], batch: int) -> dict[str, Any]:
    # The first calls allocate and warm up.
    pytorch, exported = (statistics.median(t[min(3, len(t) - 1) :]) for t in times)
    return {
        "network_ms": round(exported, 2),
        "pytorch_ms": round(pytorch, 2),
        "batch": batch,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "note": "medians over the verification frames, both networks taking turns",
    }


def _producer() -> dict[str, str]:
    return {
        "imp_trt": imp_trt.__version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _output_path(weights: Path, output: Path, precision: str) -> Path:
    """The artifact's path; refuses early what could not be written after minutes of work."""
    path = output if output.suffix == ".onnx" else output / f"{weights.stem}.{precision}.onnx"
    if path.is_dir():
        raise OutputError(
            f"output {path}", expected="a file name", got="a folder", fix="choose another with -o"
        )
    folder = next(p for p in (path.parent, *path.absolute().parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"output {path}", expected="a writable folder", got=str(folder), fix="choose another with -o"
        )
    return path
