"""How a Segmenter gets answers out of a backend: in host memory at once, or on a GPU and read later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.backends import Backend, DeviceBackend
from imp_trt.backends.decoding import decode_instances, place
from imp_trt.backends.device_outputs import DeviceAnswer, DeviceOutputs
from imp_trt.backends.futures import Pending
from imp_trt.backends.uploads import Frame
from imp_trt.preprocessing.device_arrays import DeviceFrame, on_device
from imp_trt.preprocessing.frames import check_color, check_frame, to_bgr
from imp_trt.preprocessing.letterbox import Fit
from imp_trt.results.result import SegmentationResult


class HostRunner:
    """For backends that give arrays in host memory."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._manifest = backend.manifest
        contract = self._manifest.input
        self._staging = np.empty((contract.batch, contract.height, contract.width, 3), np.uint8)

    def check_caller(self) -> None:
        """Any thread may come."""

    def run(
        self, frames: Sequence[object], color: str | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames with one network call; with keep, results hold their frame as BGR."""
        start = perf_counter()
        checked = [(to_bgr(f, color), "bgr") if keep else check_frame(f, color) for f in frames]
        fits = [_fit(pixels.shape[:2], self._manifest.input) for pixels, _ in checked]
        batch = self._fill(checked, fits)
        filled = perf_counter()
        outputs = self.backend.infer(batch)
        inferred = perf_counter()
        answers = [
            (fit.semantic_back(outputs["semantic"][i]), decode_instances(outputs, i, fit, self._manifest))
            for i, fit in enumerate(fits)
        ]
        end = perf_counter()
        timing = {
            "pre": (filled - start) * 1e3,
            "infer": (inferred - filled) * 1e3,
            "post": (end - inferred) * 1e3,
            "total": (end - start) * 1e3,
        }
        return [
            SegmentationResult(semantic, instances, self._manifest.classes, timing, pixels if keep else None)
            for (semantic, instances), (pixels, _) in zip(answers, checked, strict=True)
        ]

    def submit(self, frame: object, color: str | None) -> Pending:
        """Segment one frame now."""
        return Pending(self.run([frame], color)[0])

    def warmup(self) -> None:
        """One call on a blank frame."""
        self._staging[...] = 0
        self.backend.infer(self._staging)

    def _fill(self, frames: list[tuple[NDArray[np.uint8], str]], fits: list[Fit]) -> NDArray[np.uint8]:
        """The network's batch [B, H, W, 3]; a single fitting BGR frame is passed on without a copy."""
        if len(self._staging) == 1:
            (pixels, order), fit = frames[0], fits[0]
            if order == "bgr" and fit.frame == fit.network:
                return pixels[None]
        place(self._staging, frames, fits, self._manifest.input.pad_value)
        return self._staging


class DeviceRunner:
    """For backends that leave their outputs on a GPU."""

    def __init__(self, backend: DeviceBackend) -> None:
        self.backend = backend
        self._manifest = backend.manifest

    def check_caller(self) -> None:
        """Only one thread may come, and no other process."""
        self.backend.check_caller()

    def run(
        self, frames: Sequence[object], color: str | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames; returns when the network is done, with its answers on the GPU.

        With keep, results of frames in host memory hold their frame as BGR.
        """
        begin = perf_counter()
        outputs, results, timings = self._start(frames, color, keep, True, begin)
        upload, infer = outputs.gpu_ms()
        total = (perf_counter() - begin) * 1e3
        for timing in timings:
            timing.update(upload=upload, infer=infer, total=total)
        return results

    def submit(self, frame: object, color: str | None) -> Pending:
        """Enqueue one frame; waits for nothing."""
        outputs, (result,), (timing,) = self._start([frame], color, False, False, perf_counter())
        return Pending(result, outputs, timing)

    def warmup(self) -> None:
        """One call on a blank frame."""
        contract = self._manifest.input
        self.run([np.zeros((contract.height, contract.width, 3), np.uint8)], None)

    def _start(
        self, frames: Sequence[object], color: str | None, keep: bool, wait: bool, begin: float
    ) -> tuple[DeviceOutputs, list[SegmentationResult], list[dict[str, float]]]:
        taken = [self._take(frame, color, keep) for frame in frames]
        fits = [_fit(_size(pixels), self._manifest.input) for pixels, _ in taken]
        outputs = self.backend.start(taken, fits, wait)
        pre = (outputs.filled_at - begin) * 1e3
        results, timings = [], []
        for i, ((pixels, _), fit) in enumerate(zip(taken, fits, strict=True)):
            timing = {"pre": pre}
            there = isinstance(pixels, DeviceFrame)
            answer = DeviceAnswer(outputs, i, fit, self._manifest, timing, there, self.backend)
            kept = pixels if keep and not isinstance(pixels, DeviceFrame) else None
            results.append(SegmentationResult.lazy(answer, self._manifest.classes, timing, kept))
            timings.append(timing)
        return outputs, results, timings

    def _take(self, frame: object, color: str | None, keep: bool) -> Frame:
        if not isinstance(frame, np.ndarray) and on_device(frame):
            check_color(color)
            return self.backend.accept(frame), color or "bgr"
        if keep:
            return to_bgr(frame, color), "bgr"
        return check_frame(frame, color)


def _size(pixels: Any) -> tuple[int, int]:
    return pixels.size if isinstance(pixels, DeviceFrame) else pixels.shape[:2]


@lru_cache(maxsize=32)
def _fit(size: tuple[int, int], contract: InputContract) -> Fit:
    return Fit.of(size, contract)
