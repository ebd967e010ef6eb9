# SPDX-License-Identifier: Apache-2.0
"""Backbones with FPN: torchvision's ResNets, EfficientNet-Lite, and a compact network for real time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from imp_trt.models import efficientnet_lite
from imp_trt.models.config import Backbone, Norm

LEVELS = ("p2", "p3", "p4", "p5")
"""FPN levels that RoIAlign and the semantic head read; strides 4, 8, 16, 32. The RPN also reads p6."""

STRIDES = (4, 8, 16, 32)

COMPACT_WIDTHS = (48, 96, 160, 256)


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """torchvision's FrozenBatchNorm2d with the input's dtype: a float32 result would undo autocast."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        normalized: Tensor = super().forward(x)
        return normalized.to(x.dtype)


def norm_layer(kind: Norm | Literal["none"]) -> Callable[[int], nn.Module]:
    """Factory of a normalization layer for a number of channels: batch, frozen_batch, group or none."""
    if kind == "batch":
        return nn.BatchNorm2d
    if kind == "frozen_batch":
        return lambda channels: FrozenNorm(channels)
    if kind == "group":
        return lambda channels: nn.GroupNorm(_groups(channels), channels)
    return lambda channels: nn.Identity()


def _groups(channels: int) -> int:
    # 32 groups as in Group Normalization (Wu and He 2018); fewer where 32 does not divide the width.
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)


class Stages(nn.Module):
    """A stem and four stages; the outputs of the stages are c2..c5, strides 4 to 32."""

    stem: nn.Sequential
    stages: nn.ModuleList
    out_channels: tuple[int, ...]

    def forward(self, images: Tensor) -> list[Tensor]:  # [B, 3, H, W] -> c2..c5
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class CompactStages(Stages):
    """A narrow residual network for training from scratch and for real time: 3.3 M parameters.

    Two strided 3x3 convolutions replace ResNet's 7x7 stem and max pooling, which lose small objects;
    each of the four stages has two of torchvision's BasicBlocks.
    """

    out_channels = COMPACT_WIDTHS

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv_norm_relu(3, 32, norm, stride=2),
            _conv_norm_relu(32, COMPACT_WIDTHS[0], norm, stride=2),
        )
        stages = []
        in_channels = COMPACT_WIDTHS[0]
        for index, width in enumerate(COMPACT_WIDTHS):
            stages.append(_basic_stage(in_channels, width, stride=1 if index == 0 else 2, norm=norm))
            in_channels = width
        self.stages = nn.ModuleList(stages)


class ResNetStages(Stages):
    """The convolutional part of a torchvision ResNet or ResNeXt."""

    def __init__(self, name: str, norm: Callable[[int], nn.Module], stride_in_1x1: bool = False) -> None:
        super().__init__()
        net: resnet.ResNet = getattr(resnet, name)(weights=None, norm_layer=norm)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        if stride_in_1x1:
            for stage in self.stages:
                first: resnet.Bottleneck = stage[0]  # type: ignore[index]
                first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
        expansion = net.fc.in_features // 512
        self.out_channels = tuple(width * expansion for width in (64, 128, 256, 512))


class EfficientNetLiteStages(Stages):
    """The convolutional part of an EfficientNet-Lite."""

    def __init__(self, name: str, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages, self.out_channels = efficientnet_lite.build_stages(name, norm)


class FpnBackbone(nn.Module):
    """Backbone and FPN: images to p2..p5 and p6.

    Args:
        name: one of imp_trt.models.config.BACKBONES.
        channels: channels of each FPN level.
        norm: normalization, see :func:`norm_layer`; the FPN has none unless "batch", as in the paper.
        stride_in_1x1: see :class:`imp_trt.models.config.ModelConfig`.
    """

    def __init__(self, name: Backbone, channels: int, norm: Norm, stride_in_1x1: bool = False) -> None:
        super().__init__()
        factory = norm_layer(norm)
        self.body = _stages(name, factory, stride_in_1x1)
        self.fpn = FeaturePyramidNetwork(
            list(self.body.out_channels),
            channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm == "batch" else None,
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W] float, normalized
        stages = self.body(images)
        features = self.fpn(OrderedDict(zip(LEVELS, stages, strict=True)))
        features["p6"] = features.pop("pool")
        return dict(features)


def _stages(name: Backbone, norm: Callable[[int], nn.Module], stride_in_1x1: bool) -> Stages:
    if name == "compact":
        return CompactStages(norm)
    if name in efficientnet_lite.SCALING:
        return EfficientNetLiteStages(name, norm)
    return ResNetStages(name, norm, stride_in_1x1)


def _conv_norm_relu(
    in_channels: int, out_channels: int, norm: Callable[[int], nn.Module], stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        norm(out_channels),
        nn.ReLU(inplace=True),
    )


def _basic_stage(
    in_channels: int, out_channels: int, stride: int, norm: Callable[[int], nn.Module]
) -> nn.Sequential:
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels)
        )
    return nn.Sequential(
        resnet.BasicBlock(in_channels, out_channels, stride, downsample, norm_layer=norm),
        resnet.BasicBlock(out_channels, out_channels, norm_layer=norm),
    )


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flip_and_normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] BGR -> float32 [B, 3, H, W] RGB, (x / 255 - mean) / std."""
    images = frames.to(torch.float32).permute(0, 3, 1, 2).flip(1) / 255.0
    return (images - mean[:, None, None]) / std[:, None, None]
