"""Runs a trained network and its exported form side by side; what can run here decides what is compared."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import Manifest, write_artifact
from imp_trt.backends import Backend
from imp_trt.backends.runners import HostRunner
from imp_trt.export.progress import Progress
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.export.verification.gates import Agreement, Detected
from imp_trt.metrics.semantic import ConfusionMatrix
from imp_trt.models.deploy import DeployModule
from imp_trt.models.outputs import OUTPUT_NAMES
from imp_trt.preprocessing.letterbox import Fit
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter

ENGINE, ONNXRUNTIME, PYTORCH = "engine", "onnxruntime-cpu", "pytorch"
"""Values of ``verified_on``: what was compared with PyTorch in float32."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What was exported, in the form that can run here.

    Attributes:
        verified_on: ENGINE, ONNXRUNTIME or PYTORCH.
        payload: bytes of the engine or the ONNX file; empty for PYTORCH.
        manifest: manifest that fits the payload.
        module: the network in PyTorch in the same type.
    """

    verified_on: str
    payload: bytes
    manifest: Manifest
    module: DeployModule


class ModuleBackend:
    """A deploy module on the CPU. See :class:`imp_trt.backends.Backend`."""

    def __init__(self, module: DeployModule, manifest: Manifest) -> None:
        self._module = module.eval()
        self.manifest = manifest

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        with torch.no_grad():
            tensors = self._module(torch.from_numpy(frames.copy()))
        return {name: tensor.numpy() for name, tensor in zip(OUTPUT_NAMES, tensors, strict=True)}

    def close(self) -> None:
        """Nothing to release."""

    def run_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmentationResult]:
        """As :meth:`Segmenter.run_batch`, for at most as many images as the manifest's batch."""
        return HostRunner(self).run(images, None)


def compare(
    reference: Backend, candidate: Candidate, frames: VerificationFrames, report: Progress
) -> tuple[Agreement, dict[str, Any]]:
    """Run both networks over the frames, resizing included; agreement, and median network times in ms."""
    manifest = candidate.manifest
    agreement = Agreement()
    known = [ConfusionMatrix(len(manifest.classes)) for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    runner = HostRunner(reference)
    with _opened(candidate) as other:
        for chunk in _chunks(frames.load(manifest.classes), manifest.input.batch):
            images = [image for image, _ in chunk]
            pairs = zip(_run(runner, images), other.run_batch(images), strict=True)
            for (image, truth), results in zip(chunk, pairs, strict=True):
                agreement.add((results[0].semantic, results[1].semantic), _detected(results))
                agreement.unconverged += candidate.module.unconverged(_network_frame(image, manifest))
                for result, milliseconds in zip(results, times, strict=True):
                    milliseconds.append(result.timing["infer"])
                if truth is not None:
                    for result, matrix in zip(results, known, strict=True):
                        matrix.add(truth, result.semantic)
            report("verify", agreement.frames, len(frames))
    if known[0].counts.any():
        values = [matrix.scores(manifest.classes).mean_iou for matrix in known]
        agreement.miou = {"reference": values[0], "candidate": values[1]}
    return agreement, _benchmark(times, manifest.input.batch)


@contextmanager
def _opened(candidate: Candidate) -> Iterator[Segmenter | ModuleBackend]:
    # The terms of the weights are logged when they are read.
    manifest = replace(candidate.manifest, terms=None)
    if candidate.verified_on == PYTORCH:
        yield ModuleBackend(candidate.module, manifest)
        return
    with tempfile.TemporaryDirectory(prefix="imp_trt_export_") as folder:
        suffix = ".engine" if candidate.verified_on == ENGINE else ".onnx"
        path = write_artifact(Path(folder) / f"candidate{suffix}", candidate.payload, manifest)
        with Segmenter(path) as segmenter:
            yield segmenter


def _run(runner: HostRunner, images: Sequence[NDArray[np.uint8]]) -> list[SegmentationResult]:
    size = runner.backend.manifest.input.batch
    return [result for chunk in _chunks(iter(images), size) for result in runner.run(chunk, None)]


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
