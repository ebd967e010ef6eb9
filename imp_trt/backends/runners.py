# SPDX-License-Identifier: Apache-2.0
"""From frames to results, for backends with outputs in host memory and for those with outputs on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from time import perf_counter

import cv2
import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import InputContract
from imp_trt.backends import Backend, DeviceBackend
from imp_trt.backends.decoding import decode_instances
from imp_trt.backends.device_outputs import DeviceLazyOutputs, DeviceOutputs
from imp_trt.backends.futures import ResultFuture
from imp_trt.backends.uploads import Frame
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.native_calls import in_forked_process, native_call
from imp_trt.preprocessing.batch import preprocess_batch
from imp_trt.preprocessing.device_arrays import DeviceFrame, on_device
from imp_trt.preprocessing.frame_like import FrameLike
from imp_trt.preprocessing.frames import ColorOrder, check_color, check_frame, to_bgr
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.results.result import SegmentationResult


class HostRunner:
    """For backends that return arrays in host memory.

    Args:
        backend: the network.
        min_score: instances with a lower score are left out of the results.
    """

    def __init__(self, backend: Backend, min_score: float = 0.0) -> None:
        self.backend = backend
        self._min_score = min_score
        self._manifest = backend.manifest
        contract = self._manifest.input
        _limit_opencv()
        self._staging = np.empty((contract.batch, contract.height, contract.width, 3), np.uint8)

    def check_caller(self) -> None:
        """Accepts any thread."""

    def run(
        self, frames: Sequence[FrameLike], color: ColorOrder | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames with one network call; with keep, results hold their frame as BGR."""
        start = perf_counter()
        checked = [check_kept(frame, color, keep) for frame in frames]
        transforms = [transform_of(size_of(pixels), self._manifest.input) for pixels, _ in checked]
        batch = self._fill(checked, transforms)
        filled = perf_counter()
        outputs = self.backend.infer(batch)
        inferred = perf_counter()
        decoded = [
            (
                transform.invert_mask(outputs["semantic"][i]),
                decode_instances(outputs, i, transform, self._manifest, self._min_score),
            )
            for i, transform in enumerate(transforms)
        ]
        end = perf_counter()
        timing = {
            "pre": (filled - start) * 1e3,
            "infer": (inferred - filled) * 1e3,
            "post": (end - inferred) * 1e3,
            "total": (end - start) * 1e3,
        }
        return [
            SegmentationResult(
                class_map,
                instances,
                self._manifest.classes,
                timing,
                pixels if keep else None,
                transform.resized,
            )
            for (class_map, instances), (pixels, _), transform in zip(
                decoded, checked, transforms, strict=True
            )
        ]

    def submit(self, frame: FrameLike, color: ColorOrder | None) -> ResultFuture:
        """Segment one frame now."""
        return ResultFuture(self.run([frame], color)[0])

    def warmup(self) -> None:
        """One call on a blank frame."""
        self._staging[...] = 0
        self.backend.infer(self._staging)

    def _fill(
        self, frames: list[tuple[NDArray[np.uint8], ColorOrder]], transforms: list[LetterboxTransform]
    ) -> NDArray[np.uint8]:
        """The network's batch [B, H, W, 3]; a single BGR frame of the network's size is not copied."""
        if len(self._staging) == 1:
            (pixels, order), transform = frames[0], transforms[0]
            if order == "bgr" and transform.frame == transform.network:
                return pixels[None]
        preprocess_batch(self._staging, frames, transforms, self._manifest.input.pad_value)
        return self._staging


class DeviceRunner:
    """For backends whose outputs stay on a GPU.

    Args:
        backend: the network.
        min_score: instances with a lower score are left out of the results.
    """

    def __init__(self, backend: DeviceBackend, min_score: float = 0.0) -> None:
        self.backend = backend
        self._min_score = min_score
        self._manifest = backend.manifest

    def check_caller(self) -> None:
        """Accepts only the first thread that ran the network, in the process that opened it."""
        self.backend.check_caller()

    def run(
        self, frames: Sequence[FrameLike], color: ColorOrder | None, keep: bool = False
    ) -> list[SegmentationResult]:
        """Segment at most B frames; returns when the network is done, with its outputs on the GPU.

        With keep, results of frames in host memory hold their frame as BGR.
        """
        begin = perf_counter()
        outputs, results, timings = self._start(frames, color, keep, True, begin)
        upload, infer = outputs.gpu_ms()
        total = (perf_counter() - begin) * 1e3
        for timing in timings:
            timing.update(upload=upload, infer=infer, total=total)
        return results

    def submit(self, frame: FrameLike, color: ColorOrder | None) -> ResultFuture:
        """Enqueue one frame without waiting."""
        outputs, (result,), (timing,) = self._start([frame], color, False, False, perf_counter())
        return ResultFuture(result, outputs, timing)

    def warmup(self) -> None:
        """One call on a blank frame."""
        contract = self._manifest.input
        self.run([np.zeros((contract.height, contract.width, 3), np.uint8)], None)

    def _start(
        self, frames: Sequence[FrameLike], color: ColorOrder | None, keep: bool, wait: bool, begin: float
    ) -> tuple[DeviceOutputs, list[SegmentationResult], list[dict[str, float]]]:
        checked = [self._check(frame, color, keep) for frame in frames]
        transforms = [transform_of(size_of(pixels), self._manifest.input) for pixels, _ in checked]
        outputs = self.backend.start(checked, transforms, wait)
        pre = (outputs.filled_at - begin) * 1e3
        results, timings = [], []
        for i, ((pixels, _), transform) in enumerate(zip(checked, transforms, strict=True)):
            timing = {"pre": pre}
            on_gpu = isinstance(pixels, DeviceFrame)
            lazy = DeviceLazyOutputs(
                outputs, i, transform, self._manifest, timing, on_gpu, self.backend, self._min_score
            )
            kept = pixels if keep and not isinstance(pixels, DeviceFrame) else None
            results.append(
                SegmentationResult.lazy(lazy, self._manifest.classes, timing, kept, transform.resized)
            )
            timings.append(timing)
        return outputs, results, timings

    def _check(self, frame: FrameLike, color: ColorOrder | None, keep: bool) -> Frame:
        if not isinstance(frame, np.ndarray) and on_device(frame):
            check_color(color, frame)
            return self.backend.accept(frame), color or "bgr"
        return check_kept(frame, color, keep)


def check_kept(
    frame: FrameLike, color: ColorOrder | None, keep: bool
) -> tuple[NDArray[np.uint8], ColorOrder]:
    """The pixels of a frame in host memory, in BGR order if the result keeps them."""
    return (to_bgr(frame, color), "bgr") if keep else check_frame(frame, color)


def size_of(pixels: NDArray[np.uint8] | DeviceFrame) -> tuple[int, int]:
    """(h, w) of a frame."""
    return pixels.size if isinstance(pixels, DeviceFrame) else (pixels.shape[0], pixels.shape[1])


def _limit_opencv() -> None:
    """Keep OpenCV, which knows the process's affinity, within the quota of its cgroup too."""
    # In a forked process OpenCV would wait for the threads of its parent.
    with native_call():
        if cv2.getNumThreads() > usable_cpus() and not in_forked_process():
            cv2.setNumThreads(usable_cpus())


@lru_cache(maxsize=32)
def transform_of(size: tuple[int, int], contract: InputContract) -> LetterboxTransform:
    return LetterboxTransform.of(size, contract)
