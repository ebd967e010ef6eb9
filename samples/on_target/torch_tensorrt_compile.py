# SPDX-License-Identifier: Apache-2.0
"""Compile a network that uses the IMP operator with Torch-TensorRT, and compare it with PyTorch.

Exit code 5 where torch-tensorrt, TensorRT or a GPU is missing.
"""

from __future__ import annotations

import json
import sys

import torch
from torch import Tensor, nn

from imp_trt import ImpTrtError
from imp_trt.errors import DependencyMissing
from imp_trt.ops import instance_mask_projection
from imp_trt.plugins import register_converters

CLASSES, SIZE = 8, (64, 128)


class Head(nn.Module):
    """A convolution over features and the canvas of the instances."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(16 + CLASSES, CLASSES, 3, padding=1)

    def forward(
        self, features: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor
    ) -> Tensor:
        canvas = instance_mask_projection(boxes, scores, labels, masks, CLASSES, SIZE, 0.25)
        mixed: Tensor = self.mix(torch.cat([features, canvas], 1))
        return mixed


def inputs(count: int = 20) -> list[Tensor]:
    """Features [1, 16, H, W] and count instances, on the GPU."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(1, count, 2, generator=generator) * torch.tensor([400.0, 200.0])
    sides = 8 + torch.rand(1, count, 2, generator=generator) * 100
    tensors = [
        torch.randn(1, 16, *SIZE, generator=generator),
        torch.cat([corners, corners + sides], 2),
        torch.rand(1, count, generator=generator),
        torch.randint(0, CLASSES, (1, count), generator=generator),
        torch.rand(1, count, 28, 28, generator=generator),
    ]
    return [tensor.cuda() for tensor in tensors]


def main() -> int:
    try:
        register_converters()
        import torch_tensorrt  # pyright: ignore[reportMissingImports]

        if not torch.cuda.is_available():
            raise DependencyMissing("PyTorch finds no GPU", fix="run this on the target")
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    model, arguments = Head().eval().cuda(), inputs()
    with torch.no_grad():
        expected = model(*arguments)
        options = {"min_block_size": 1, "require_full_compilation": True, "disable_tf32": True}
        compiled = torch_tensorrt.compile(model, ir="dynamo", inputs=arguments, **options)
        actual = compiled(*arguments)
    worst = float((actual - expected).abs().max() / expected.abs().max())
    print(json.dumps({"torch_tensorrt": torch_tensorrt.__version__, "largest_relative_difference": worst}))
    return 0 if worst < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())
