"""The facade: open a network, run frames, get results in the frames' own pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.backends import Backend, open_backend
from imp_trt.classes import ClassTable
from imp_trt.errors import InvalidInput
from imp_trt.frames import check_frame, to_bgr
from imp_trt.manifest import InputContract, Manifest
from imp_trt.resize import Fit
from imp_trt.result import Instances, SegmentationResult

_log = logging.getLogger(__name__)

_Outputs = dict[str, NDArray[Any]]


class Segmenter:
    """A segmentation network that takes frames of any size.

    >>> with Segmenter("street.fp32.onnx") as segmenter:
    ...     frame = cv2.imread("street.jpg")
    ...     cv2.imwrite("overlay.png", segmenter.run(frame).plot(frame))

    Calls from several threads are served one after the other.

    Args:
        path: an ONNX artifact made by imp-export, or a checkpoint (.safetensors, .pt).
        backend: "onnxruntime" or "pytorch"; None chooses by the file.
        threads: CPU threads of the network; None leaves the choice to the backend.
        device: "cpu" or "cuda"; None takes the best that the backend finds.

    Raises:
        ArtifactError, CheckpointError: the file is missing or damaged.
        DependencyMissing: the backend's package or device is not there.
        InvalidInput: an argument makes no sense.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: str | None = None,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        self._backend: Backend | None = open_backend(path, backend, threads=threads, device=device)
        self._manifest = self._backend.manifest
        if self._manifest.terms:
            _log.warning("%s: %s", os.fspath(path), self._manifest.terms)
        contract = self._manifest.input
        self._staging = np.empty((contract.batch, contract.height, contract.width, 3), np.uint8)
        self._lock = Lock()

    @property
    def manifest(self) -> Manifest:
        """What the network is, takes and gives."""
        return self._manifest

    @property
    def classes(self) -> ClassTable:
        """Names, things and colours of the classes."""
        return self._manifest.classes

    def run(self, frame: object, color: str | None = None) -> SegmentationResult:
        """Segment one frame.

        Args:
            frame: [h, w, 3] uint8 BGR array of any size and strides, or a PIL image; not changed.
            color: "bgr" or "rgb" for arrays in another order than the default.

        Raises:
            InvalidInput: the frame is something else, or the segmenter is closed.
        """
        return self._run_chunk([frame], color)[0]

    __call__ = run

    def run_batch(self, frames: Sequence[object], color: str | None = None) -> list[SegmentationResult]:
        """Segment frames, which may differ in size; the network's batch is split and filled up.

        The timing of each result is that of the network call it came from.
        """
        batch = self._manifest.input.batch
        results: list[SegmentationResult] = []
        for start in range(0, len(frames), batch):
            results += self._run_chunk(frames[start : start + batch], color)
        return results

    def stream(
        self, source: str | os.PathLike[str] | Iterable[object], color: str | None = None
    ) -> Iterator[SegmentationResult]:
        """Segment frames one network call at a time, as they are asked for.

        Args:
            source: an iterable of frames, or what imp_trt.video.open_source takes: an image, folder,
                pattern or video file.

        Yields:
            One result per frame, in order; its ``frame`` is set, so that ``plot()`` needs no argument.
        """
        if isinstance(source, str | os.PathLike):
            from imp_trt.video.sources import open_source

            with open_source(source) as opened:
                yield from self.stream((item.image for item in opened), color)
            return
        frames = iter(source)
        while chunk := [to_bgr(f, color) for f in islice(frames, self._manifest.input.batch)]:
            yield from self._run_chunk(chunk, None, keep=True)

    def warmup(self, calls: int = 1) -> None:
        """Run the network on blank frames, so that the first real one is not the slow one."""
        with self._lock:
            self._staging[...] = 0
            for _ in range(calls):
                self._open_backend().infer(self._staging)

    def close(self) -> None:
        """Release the network; idempotent."""
        with self._lock:
            backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        m = self._manifest
        state = "closed" if self._backend is None else f"{m.input.width}x{m.input.height} {m.precision}"
        return f"Segmenter({m.kind}, {state}, {len(m.classes)} classes)"

    def _open_backend(self) -> Backend:
        if self._backend is None:
            raise InvalidInput("segmenter is closed", fix="open a new Segmenter")
        return self._backend

    def _run_chunk(
        self, frames: Sequence[object], color: str | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames with one network call."""
        with self._lock:
            backend = self._open_backend()
            start = perf_counter()
            checked = [check_frame(frame, color) for frame in frames]
            fits = [_fit(pixels.shape[:2], self._manifest.input) for pixels, _ in checked]
            batch = self._fill(checked, fits)
            filled = perf_counter()
            outputs = backend.infer(batch)
            inferred = perf_counter()
            answers = [self._back(outputs, i, fit) for i, fit in enumerate(fits)]
            end = perf_counter()
        timing = {
            "pre": (filled - start) * 1e3,
            "infer": (inferred - filled) * 1e3,
            "post": (end - inferred) * 1e3,
            "total": (end - start) * 1e3,
        }
        return [
            SegmentationResult(semantic, instances, self.classes, timing, pixels if keep else None)
            for (semantic, instances), (pixels, _) in zip(answers, checked, strict=True)
        ]

    def _fill(self, frames: list[tuple[NDArray[np.uint8], str]], fits: list[Fit]) -> NDArray[np.uint8]:
        """The network's batch [B, H, W, 3]; a single fitting BGR frame is passed on without a copy."""
        batch = self._staging
        if len(batch) == 1:
            (pixels, order), fit = frames[0], fits[0]
            if order == "bgr" and fit.frame == fit.network:
                return pixels[None]
        for slot, (pixels, order), fit in zip(batch, frames, fits, strict=False):
            if order == "bgr":
                fit.forward(pixels, out=slot)
            else:
                # After the resize, where there are usually fewer pixels to swap.
                cv2.cvtColor(fit.forward(pixels), cv2.COLOR_RGB2BGR, dst=slot)
        batch[len(frames) :] = self._manifest.input.pad_value
        return batch

    def _back(self, outputs: _Outputs, i: int, fit: Fit) -> tuple[NDArray[np.uint8], Instances]:
        """Answer i of the batch, in its frame's pixels."""
        semantic = fit.semantic_back(outputs["semantic"][i])
        h, w = fit.frame
        count = min(max(int(outputs["num_detections"][i]), 0), outputs["scores"].shape[1])
        labels, scores = outputs["labels"][i, :count], outputs["scores"][i, :count]
        spans = fit.boxes_back(outputs["boxes"][i, :count])
        boxes = np.clip(spans, 0, np.array([w, h, w, h], np.float32))
        # As in the IMP operator: what cannot be placed contributes nothing.
        keep = np.isfinite(spans).all(axis=1) & np.isfinite(scores) & (scores > 0)
        keep &= (labels >= 0) & (labels < len(self.classes))
        keep &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        masks = outputs["masks"][i, :count]
        found = Instances(
            boxes[keep],
            labels[keep],
            scores[keep],
            masks[keep],
            fit.frame,
            self._manifest.sampling,
            spans[keep],
        )
        return semantic, found


@lru_cache(maxsize=32)
def _fit(size: tuple[int, int], contract: InputContract) -> Fit:
    return Fit.of(size, contract)
