# SPDX-License-Identifier: Apache-2.0
"""PyTorch operations before and after the network, without copies in between.

python samples/pytorch_loop/pytorch_loop.py street.fp16.tensorrt.engine drive.mp4

Before: automatic exposure. After: the length of free road in each column. With an engine the frame is copied
to the GPU once, processed by PyTorch and read by TensorRT in place (DLPack; their streams synchronize on the
GPU). With an .onnx file everything is in host memory, without copies.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imp_trt import ImpTrtError, SegmentationResult, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import open_source

TARGET = 110.0  # target mean level
SPEED = 0.2  # smoothing factor per frame


class AutoExposure:
    """Adjusts the mean level of a video to TARGET; its state is kept on the device of the frames."""

    def __init__(self) -> None:
        self._gain: Tensor | None = None

    def __call__(self, frame: Tensor) -> Tensor:
        """Return the adjusted frame [h, w, 3] uint8 as a new tensor."""
        values = frame.float()
        gain = (TARGET / values.mean().clamp(min=1)).clamp(0.25, 4)
        # The gain stays a tensor: .item() would synchronize host and GPU in every frame.
        self._gain = gain if self._gain is None else self._gain + SPEED * (gain - self._gain)
        return (values * self._gain).round_().clamp_(0, 255).byte()


def free_road(semantic: Tensor, road: int) -> Tensor:
    """Length of uninterrupted road from the lower edge: semantic [h, w] uint8 -> [w] int64, in pixels."""
    from_below = (semantic == road).flip(0).to(torch.uint8)
    return from_below.cumprod(0, dtype=torch.uint8).sum(0)


def pixels_of(frame: Tensor) -> Tensor | NDArray[np.uint8]:
    """Return the tensor as an input of Segmenter.run, without a copy.

    GPU tensors are accepted directly; CPU tensors are passed as the NumPy array that shares their memory.
    """
    return frame if frame.is_cuda else frame.numpy()


@dataclass(frozen=True)
class Step:
    """Result of the loop for a frame.

    Attributes:
        result: output of the network.
        free: [w] int64, pixels of free road per column.
    """

    result: SegmentationResult
    free: Tensor


@torch.inference_mode()  # a with statement would also affect the caller between two steps
def drive(segmenter: Segmenter, source: str, device: torch.device, road: str = "road") -> Iterator[Step]:
    """One step per frame of a source.

    Raises:
        InvalidInput: the network has no such class.
    """
    names = segmenter.classes.names
    if road not in names:
        raise InvalidInput("road", expected=f"one of {', '.join(names)}", got=road, fix="--road CLASS")
    expose = AutoExposure()
    with open_source(source) as frames:
        for frame in frames:
            image = expose(torch.from_numpy(frame.image).to(device))
            result = segmenter.run(pixels_of(image))
            # Reading `semantic` downloads one byte per pixel; the tensor shares its memory.
            yield Step(result, free_road(torch.from_numpy(result.semantic), names.index(road)))


def device_of(segmenter: Segmenter) -> torch.device:
    """Return the device for the frames: the GPU for an engine."""
    if segmenter.manifest.kind != "engine":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SystemExit("this PyTorch cannot use the GPU; install a build with CUDA, or run the .onnx file")
    return torch.device("cuda")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", help="an engine for this GPU, or an .onnx file")
    parser.add_argument("source", help="video, image or folder of images")
    parser.add_argument("--road", default="road", metavar="CLASS", help="name of the class in the network")
    options = parser.parse_args(arguments)
    count = 0
    with Segmenter(options.artifact) as segmenter:
        device = device_of(segmenter)
        for step in drive(segmenter, options.source, device, options.road):
            middle = step.free[len(step.free) // 3 : -(len(step.free) // 3)]
            free, height = int(middle.min()), step.result.size[0]
            print(f"{count:5d}: road free ahead {free / height:4.0%} of the image height")
            count += 1
    print(f"{count} frames on {device}")
    return count


if __name__ == "__main__":
    try:
        main()
    except ImpTrtError as error:
        sys.exit(str(error))
