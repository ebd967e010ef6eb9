# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6 instead of SiLU.

Both changes are for integer arithmetic. Architecture: table 1 of Tan and Le (2019), scaled in width and
depth; in the Lite variants the stem, the first and the last group of blocks have a fixed depth, and the
stem a fixed width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

BATCH_NORM_EPS = 1e-3
"""The published weights were trained with it; some of their variances are below PyTorch's 1e-5."""

STEM_WIDTH = 32

SCALING: dict[str, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""Factors of width and depth."""


@dataclass(frozen=True)
class BlockGroup:
    """Blocks of the same width; the first one has the stride.

    Attributes:
        repeats, width, stride, kernel, expansion: of lite0, before scaling.
        stage: 0 for the stem, 1 to 4 for the stages whose outputs have strides 4, 8, 16 and 32.
    """

    repeats: int
    width: int
    stride: int
    kernel: int
    expansion: int
    stage: int


GROUPS = (
    BlockGroup(1, 16, 1, 3, 1, stage=0),
    BlockGroup(2, 24, 2, 3, 6, stage=1),
    BlockGroup(2, 40, 2, 5, 6, stage=2),
    BlockGroup(3, 80, 2, 3, 6, stage=3),
    BlockGroup(3, 112, 1, 5, 6, stage=3),
    BlockGroup(4, 192, 2, 5, 6, stage=4),
    BlockGroup(1, 320, 1, 3, 6, stage=4),
)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution in float32 under autocast on the CPU.

    oneDNN has a bfloat16 kernel for its forward pass only: the gradients of a layer take 4 to 14 times as
    long as in float32, and half of a training step.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> [B, C', H', W']
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).to(x.dtype)


class SameConv2d(DepthwiseConv2d):
    """A strided convolution with TensorFlow's SAME padding of even sides: one pixel less on the left and top.

    Symmetric padding would shift the features of pretrained weights by up to a pixel per stride.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W], even H and W -> [B, C', H/2, W/2]
        total = self.kernel_size[0] - self.stride[0]
        before, after = total // 2, total - total // 2
        return super().forward(F.pad(x, (before, after, before, after)))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; added to the input if the shapes agree."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        kernel: int,
        expansion: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Sequential()  # no expansion: the identity
        if expansion > 1:
            self.expand = _conv_norm_relu6(in_channels, width, 1, 1, 1, norm)
        self.depthwise = _conv_norm_relu6(width, width, kernel, stride, width, norm)
        self.project = nn.Sequential(nn.Conv2d(width, out_channels, 1, bias=False), norm(out_channels))
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.is_residual else y


def build_stages(
    name: str, norm: Callable[[int], nn.Module]
) -> tuple[nn.Sequential, nn.ModuleList, tuple[int, ...]]:
    """Stem, the four stages and their output channels; the classifier and its 1x1 convolution are left out.

    Args:
        name: a key of SCALING.
        norm: normalization layer for a number of channels.
    """
    width_factor, _ = SCALING[name]
    parts: list[list[nn.Module]] = [[_conv_norm_relu6(3, STEM_WIDTH, 3, 2, 1, norm)], [], [], [], []]
    channels, out_channels = STEM_WIDTH, [0] * 5
    for group, repeats in zip(GROUPS, block_repeats(name), strict=True):
        width = _scaled_width(group.width, width_factor)
        for index in range(repeats):
            stride = group.stride if index == 0 else 1
            block = InvertedResidual(channels, width, stride, group.kernel, group.expansion, norm)
            parts[group.stage].append(block)
            channels = width
        out_channels[group.stage] = width
    stem, *stages = (nn.Sequential(*part) for part in parts)
    for part in (stem, *stages):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                module.eps = BATCH_NORM_EPS
    return stem, nn.ModuleList(stages), tuple(out_channels[1:])


def block_repeats(name: str) -> list[int]:
    """Number of blocks in each of GROUPS."""
    _, depth_factor = SCALING[name]
    fixed = (0, len(GROUPS) - 1)
    return [
        group.repeats if index in fixed else math.ceil(group.repeats * depth_factor)
        for index, group in enumerate(GROUPS)
    ]


def _scaled_width(width: int, factor: float) -> int:
    """The nearest multiple of 8, at least 90% of the scaled width."""
    scaled = width * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8


def _conv_norm_relu6(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    groups: int,
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    conv: nn.Conv2d
    if stride == 1:
        layer = nn.Conv2d if groups == 1 else DepthwiseConv2d
        conv = layer(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        conv = SameConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(conv, norm(out_channels), nn.ReLU6(inplace=True))
