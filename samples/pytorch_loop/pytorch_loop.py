"""A PyTorch step before the network and one after it, without copies in between.

python samples/pytorch_loop/pytorch_loop.py street.fp16.tensorrt.engine drive.mp4

Before: the exposure follows the scene. After: how far the road is free, column by column. With an engine the
frame goes up to the GPU once; PyTorch changes it there, and TensorRT reads it where it lies (DLPack; their
streams wait for each other on the GPU). With an .onnx file all is in host memory; nothing is copied there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imp_trt import ImpTrtError, SegmentationResult, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import open_source

TARGET = 110.0  # mean level that a frame is brought to
SPEED = 0.2  # share of the way there per frame


class AutoExposure:
    """Brings the mean level of a video towards TARGET; its state stays on the frames' device."""

    def __init__(self) -> None:
        self._gain: Tensor | None = None

    def __call__(self, frame: Tensor) -> Tensor:
        """frame [h, w, 3] uint8 -> the same, exposed; a new tensor."""
        values = frame.float()
        wanted = (TARGET / values.mean().clamp(min=1)).clamp(0.25, 4)
        # Tensors all along: a .item() here would make the host wait for the GPU in every frame.
        self._gain = wanted if self._gain is None else self._gain + SPEED * (wanted - self._gain)
        return (values * self._gain).round_().clamp_(0, 255).byte()


def free_road(semantic: Tensor, road: int) -> Tensor:
    """Unbroken road above the lower edge: semantic [h, w] uint8 -> [w] int64, in pixels."""
    from_below = (semantic == road).flip(0).to(torch.uint8)
    return from_below.cumprod(0, dtype=torch.uint8).sum(0)


def pixels_of(frame: Tensor) -> Any:
    """The tensor as Segmenter.run takes it; the same memory.

    A tensor on the GPU is taken as it is, one in host memory as the array that shares it.
    """
    return frame if frame.is_cuda else frame.numpy()


@dataclass(frozen=True)
class Step:
    """What the loop knows about a frame.

    Attributes:
        result: of the network.
        free: [w] int64, pixels of free road per column.
    """

    result: SegmentationResult
    free: Tensor


@torch.inference_mode()  # as decorator: a with statement would hold for the caller too, between two steps
def drive(segmenter: Segmenter, source: str, device: torch.device, road: str = "road") -> Iterator[Step]:
    """One step per frame of a source.

    Raises:
        InvalidInput: the network knows no class of the road's name.
    """
    names = segmenter.classes.names
    if road not in names:
        raise InvalidInput("road", expected=f"one of {', '.join(names)}", got=road, fix="--road CLASS")
    expose = AutoExposure()
    with open_source(source) as frames:
        for frame in frames:
            image = expose(torch.from_numpy(frame.image).to(device))
            result = segmenter.run(pixels_of(image))
            # Reading `semantic` fetches one byte a pixel; the tensor shares its memory.
            yield Step(result, free_road(torch.from_numpy(result.semantic), names.index(road)))


def device_of(segmenter: Segmenter) -> torch.device:
    """Where frames should be for a network: on the GPU for an engine."""
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
    parser.add_argument("source", help="video, picture or folder of pictures")
    parser.add_argument("--road", default="road", metavar="CLASS", help="the network's name for it")
    options = parser.parse_args(arguments)
    count = 0
    with Segmenter(options.artifact) as segmenter:
        device = device_of(segmenter)
        for step in drive(segmenter, options.source, device, options.road):
            middle = step.free[len(step.free) // 3 : -(len(step.free) // 3)]
            free, height = int(middle.min()), step.result.size[0]
            print(f"{count:5d}: road free ahead {free / height:4.0%} of the picture's height")
            count += 1
    print(f"{count} frames on {device}")
    return count


if __name__ == "__main__":
    try:
        main()
    except ImpTrtError as error:
        sys.exit(str(error))
