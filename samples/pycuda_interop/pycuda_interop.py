# SPDX-License-Identifier: Apache-2.0
"""Apply a PyCUDA kernel before the network; frames are uploaded once and stay in GPU memory.

python samples/pycuda_interop/pycuda_interop.py street.fp16.tensorrt.engine night.mp4 --gamma 0.6
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

# Not pycuda.autoinit, which creates a new context, whose memory the engine cannot access.
import pycuda.autoprimaryctx  # noqa: F401  # pyright: ignore[reportMissingImports]
import pycuda.driver as cuda  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray
from pycuda import gpuarray  # pyright: ignore[reportMissingImports]
from pycuda.compiler import SourceModule  # pyright: ignore[reportMissingImports]

from imp_trt import ImpTrtError, SegmentationResult, Segmenter
from imp_trt.video import open_source

KERNEL = """
__global__ void tone(unsigned char* pixels, int count, const unsigned char* curve)
{
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
        pixels[i] = curve[pixels[i]];
    }
}
"""
THREADS, MAX_BLOCKS = 256, 1024


class OnStream:
    """A GPUArray with the stream that writes it.

    PyCUDA declares all arrays as ready. With the handle of the stream, the engine waits on the GPU for the
    operations enqueued before run(), and the host does not wait.
    """

    def __init__(self, array: Any, stream: Any) -> None:
        self.array = array
        described = array.__cuda_array_interface__
        self.__cuda_array_interface__ = {**described, "version": 3, "stream": stream.handle}


class ToneCurve:
    """Applies a tone curve to frames on the GPU: brightens for gamma < 1, darkens for gamma > 1.

    Args:
        gamma: exponent of the tone curve on levels 0-1.
    """

    def __init__(self, gamma: float) -> None:
        self.stream = cuda.Stream()
        levels = 255 * (np.arange(256) / 255) ** gamma
        self._curve = gpuarray.to_gpu(levels.round().astype(np.uint8))
        self._kernel = SourceModule(KERNEL).get_function("tone")
        self._pinned: Any = None  # page-locked [h, w, 3] uint8
        self._pixels: Any = None

    def upload(self, image: NDArray[np.uint8]) -> OnStream:
        """Upload a frame and apply the curve; the result is valid until the next call.

        Call it again only after the network has processed the last frame, as after Segmenter.run.

        Args:
            image: [h, w, 3] uint8 BGR; it may be modified afterwards.
        """
        if self._pinned is None or self._pinned.shape != image.shape:
            self._pinned = cuda.pagelocked_empty(image.shape, np.uint8)
            self._pixels = gpuarray.empty(image.shape, np.uint8)
        self._pinned[...] = image  # copies from pinned memory are asynchronous
        self._pixels.set_async(self._pinned, stream=self.stream)
        blocks = min(-(-image.size // THREADS), MAX_BLOCKS)
        self._kernel(
            self._pixels.gpudata,
            np.int32(image.size),
            self._curve.gpudata,
            block=(THREADS, 1, 1),
            grid=(blocks, 1),
            stream=self.stream,
        )
        return OnStream(self._pixels, self.stream)


def segment(segmenter: Segmenter, source: str, gamma: float) -> Iterator[SegmentationResult]:
    """Yield one result per frame, in pixels of the frame."""
    tone = ToneCurve(gamma)
    with open_source(source) as frames:
        for frame in frames:
            yield segmenter.run(tone.upload(frame.image))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", help="built by imp-export for TensorRT on this GPU")
    parser.add_argument("source", help="video, image or folder of images")
    parser.add_argument("--gamma", type=float, default=0.7, help="below 1 brightens; default 0.7")
    options = parser.parse_args(arguments)
    times = []
    with Segmenter(options.engine) as segmenter:
        for result in segment(segmenter, options.source, options.gamma):
            times.append(result.timing["total"])
            fractions = result.pixel_counts() / result.semantic.size
            seen = [
                f"{name} {fraction:.0%}"
                for name, fraction in zip(result.classes.names, fractions, strict=True)
                if fraction
            ]
            print(f"{len(times):5d}: {', '.join(seen)}; {len(result.instances)} instances")
    if times:
        print(f"{len(times)} frames, {statistics.median(times):.2f} ms each (median)")
    return len(times)


if __name__ == "__main__":
    try:
        main()
    except ImpTrtError as error:
        sys.exit(str(error))
