# SPDX-License-Identifier: Apache-2.0
"""Comparison of a trained network and its export on the same frames."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from imp_trt.artifacts.golden import unpack_golden
from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends import Backend, CanvasBackend
from imp_trt.backends.canvas import CanvasShape
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.runners import HostRunner
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.files import temporary_folder
from imp_trt.errors import VerificationError
from imp_trt.export.progress import Progress
from imp_trt.export.verification.canvas import CanvasAgreement
from imp_trt.export.verification.frames import VerificationFrames
from imp_trt.export.verification.gates import (
    ENGINE,
    PYTORCH,
    Agreement,
    FrameDetections,
    VerifiedOn,
)
from imp_trt.export.verification.golden import Candidates, make_golden, replay
from imp_trt.metrics.semantic import ConfusionMatrix
from imp_trt.models.deploy import CanvasModule, DeployModule
from imp_trt.models.outputs import OUTPUT_NAMES
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Candidate:
    """The export, or its closest form that runs on this machine.

    Attributes:
        verified_on: ENGINE, ONNXRUNTIME or PYTORCH.
        payload: bytes of the engine or the ONNX file; empty for PYTORCH.
        manifest: of the payload.
        module: the network in PyTorch with layers of the same type.
        canvas: bytes of the canvas part of the payload; None if it has none.
    """

    verified_on: VerifiedOn
    payload: bytes
    manifest: Manifest
    module: DeployModule
    canvas: bytes | None = None


class ModuleBackend:
    """A deploy module on the CPU. See :class:`imp_trt.backends.Backend`."""

    def __init__(self, module: DeployModule, manifest: Manifest) -> None:
        self._module = module.eval()
        self.manifest = manifest

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        with torch.no_grad():
            tensors = self._module(torch.from_numpy(frames.copy()))
        return {name: tensor.numpy() for name, tensor in zip(OUTPUT_NAMES, tensors, strict=True)}

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        return CanvasModule(self._module).canvas_shape(self.manifest.input.batch)

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        with torch.no_grad():
            semantic = CanvasModule(self._module)(torch.from_numpy(frames.copy()), torch.from_numpy(canvas))
        return np.asarray(semantic.numpy(), np.uint8)

    def close(self) -> None:
        """Nothing to release."""

    def run_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmentationResult]:
        """See :meth:`Segmenter.run_batch`; at most as many images as the manifest's batch."""
        return HostRunner(self).run(images, None)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results of :func:`compare`.

    Attributes:
        agreement: of the two networks.
        benchmark: for the manifest: median network times in ms.
        golden: content of the file of golden frames, or None if a frame is too large.
        golden_agreement: that of the export on the golden frames; it has no frames without golden.
        canvas: agreement of the canvas part; it has no frames without one.
    """

    agreement: Agreement
    benchmark: dict[str, object]
    golden: bytes | None
    golden_agreement: Agreement
    canvas: CanvasAgreement


class _Recorder:
    """A backend that keeps the frames and outputs of its last calls."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.manifest = backend.manifest
        self._calls: list[tuple[NDArray[np.uint8], HostOutputs]] = []

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        outputs = self._backend.infer(frames)
        self._calls.append((frames.copy(), outputs))
        return outputs

    def close(self) -> None:
        """Nothing to release."""

    def take(self) -> tuple[NDArray[np.uint8], HostOutputs]:
        """Frames and outputs of all calls since the last one of this method."""
        calls, self._calls = self._calls, []
        outputs = {name: np.concatenate([call[1][name] for call in calls]) for name in calls[0][1]}
        return np.concatenate([frames for frames, _ in calls]), outputs


def compare(
    reference: Backend, candidate: Candidate, frames: VerificationFrames, report: Progress
) -> Comparison:
    """Run both networks on the frames, resizing included, and choose golden frames among them."""
    manifest = candidate.manifest
    agreement = Agreement()
    matrices = [ConfusionMatrix(len(manifest.classes)) for _ in range(2)]
    times: tuple[list[float], list[float]] = ([], [])
    recorder = _Recorder(reference)
    runner = HostRunner(recorder)
    candidates = Candidates()
    canvas = CanvasAgreement()
    with _open(candidate) as exported:
        part = None if candidate.canvas is None else _canvas_backend(exported)
        shape = (0, 0, 0, 0) if part is None else part.open_canvas()
        for chunk in _chunks(frames.load(manifest.classes), manifest.input.batch):
            images = [image for image, _ in chunk]
            pairs = zip(_run(runner, images), exported.run_batch(images), strict=True)
            recorded = recorder.take()
            if part is not None:
                canvas.add(part, shape, *recorded)
            for (image, ground_truth), results in zip(chunk, pairs, strict=True):
                own = Agreement()
                for total in (agreement, own):
                    total.add((results[0].semantic, results[1].semantic), _detections(results))
                candidates.add(agreement.frames, image, own)
                agreement.unconverged += candidate.module.unconverged(_network_frame(image, manifest))
                for result, milliseconds in zip(results, times, strict=True):
                    milliseconds.append(result.timing["infer"])
                if ground_truth is not None:
                    for result, matrix in zip(results, matrices, strict=True):
                        matrix.add(ground_truth, result.semantic)
            report("verify", agreement.frames, len(frames))
        golden = make_golden(reference, candidates.images())
        replayed = Agreement()
        if golden is not None:
            replayed, _ = replay(_backend(exported), unpack_golden(golden, manifest))
    if matrices[0].counts.any():
        values = [matrix.scores(manifest.classes).mean_iou for matrix in matrices]
        agreement.miou = {"reference": values[0], "candidate": values[1]}
    return Comparison(agreement, _benchmark(times, manifest.input.batch), golden, replayed, canvas)


@contextmanager
def _open(candidate: Candidate) -> Iterator[Segmenter | ModuleBackend]:
    # The license terms of the weights were logged when the checkpoint was read.
    manifest = replace(candidate.manifest, terms=None)
    if candidate.verified_on == PYTORCH:
        yield ModuleBackend(candidate.module, manifest)
        return
    with temporary_folder("imp_trt_export_") as folder:
        suffix = ".engine" if candidate.verified_on == ENGINE else ".onnx"
        path = write_artifact(
            folder / f"candidate{suffix}", candidate.payload, manifest, canvas=candidate.canvas
        )
        with Segmenter(path) as segmenter:
            yield segmenter


def _backend(exported: Segmenter | ModuleBackend) -> Backend:
    return exported if isinstance(exported, ModuleBackend) else exported._open_backend()


def _canvas_backend(exported: Segmenter | ModuleBackend) -> CanvasBackend:
    backend = _backend(exported)
    if not isinstance(backend, CanvasBackend):
        raise VerificationError("canvas part", expected="a backend that runs it", got=type(backend).__name__)
    return backend


def _run(runner: HostRunner, images: Sequence[NDArray[np.uint8]]) -> list[SegmentationResult]:
    size = runner.backend.manifest.input.batch
    return [result for chunk in _chunks(iter(images), size) for result in runner.run(chunk, None)]


def _chunks(items: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _detections(
    results: tuple[SegmentationResult, SegmentationResult],
) -> tuple[FrameDetections, FrameDetections]:
    first, second = (r.instances for r in results)
    return (
        FrameDetections(first.boxes, first.labels, first.scores, first.masks),
        FrameDetections(second.boxes, second.labels, second.scores, second.masks),
    )


def _network_frame(image: NDArray[np.uint8], manifest: Manifest) -> torch.Tensor:
    transform = LetterboxTransform.of((image.shape[0], image.shape[1]), manifest.input)
    return torch.from_numpy(np.ascontiguousarray(transform.apply(image))).unsqueeze(0)


def _benchmark(times: tuple[list[float], list[float]], batch: int) -> dict[str, object]:
    # Without the first calls, which allocate memory and warm up.
    pytorch, exported = (statistics.median(t[min(3, len(t) - 1) :]) for t in times)
    return {
        "network_ms": round(exported, 2),
        "pytorch_ms": round(pytorch, 2),
        "batch": batch,
        "machine": f"{platform.machine()}, {usable_cpus()} CPUs",
        "note": "medians over the verification frames, both networks alternating",
    }
