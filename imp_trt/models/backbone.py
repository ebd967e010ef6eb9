"""Backbones with a feature pyramid: torchvision's ResNets and a compact one for real time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

LEVELS = ("p2", "p3", "p4", "p5")
"""Pyramid levels that RoIAlign and the semantic head read; strides 4, 8, 16, 32. The RPN also reads p6."""

STRIDES = (4, 8, 16, 32)

COMPACT_WIDTHS = (48, 96, 160, 256)


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, answering in the type of the input: float32 would undo autocast behind it."""

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        normalized: Tensor = super().forward(x)
        return normalized.to(x.dtype)


def norm_layer(kind: str) -> Callable[[int], nn.Module]:
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

    Two strided 3x3 convolutions replace ResNet's 7x7 stem and max pool, which lose small things;
    each of the four stages has two of torchvision's basic blocks.
    """

    out_channels = COMPACT_WIDTHS

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _conv_norm_relu(3, 32, norm, stride=2),
            _conv_norm_relu(32, COMPACT_WIDTHS[0], norm, stride=2),
        )
        stages = []
        before = COMPACT_WIDTHS[0]
        for index, width in enumerate(COMPACT_WIDTHS):
            stages.append(_basic_stage(before, width, stride=1 if index == 0 else 2, norm=norm))
            before = width
        self.stages = nn.ModuleList(stages)


class ResNetStages(Stages):
    """The convolutional part of a torchvision ResNet or ResNeXt."""

    def __init__(self, name: str, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        net: resnet.ResNet = getattr(resnet, name)(weights=None, norm_layer=norm)
        self.stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])
        expansion = net.fc.in_features // 512
        self.out_channels = tuple(width * expansion for width in (64, 128, 256, 512))


class PyramidBackbone(nn.Module):
    """Backbone and FPN: images to p2..p5 and p6.

    Args:
        name: one of imp_trt.models.config.BACKBONES.
        channels: channels of every pyramid level.
        norm: normalization, see :func:`norm_layer`; the FPN of the paper has none unless "batch".
    """

    def __init__(self, name: str, channels: int, norm: str) -> None:
        super().__init__()
        factory = norm_layer(norm)
        self.body: Stages = CompactStages(factory) if name == "compact" else ResNetStages(name, factory)
        self.fpn = FeaturePyramidNetwork(
            list(self.body.out_channels),
            channels,
            extra_blocks=LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d if norm == "batch" else None,
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # [B, 3, H, W] float, normalized
        stages = self.body(images)
        pyramid = self.fpn(OrderedDict(zip(LEVELS, stages, strict=True)))
        pyramid["p6"] = pyramid.pop("pool")
        return dict(pyramid)


def _conv_norm_relu(
    before: int, after: int, norm: Callable[[int], nn.Module], stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), norm(after), nn.ReLU(inplace=True)
    )


def _basic_stage(before: int, after: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), norm(after))
    return nn.Sequential(
        resnet.BasicBlock(before, after, stride, shortcut, norm_layer=norm),
        resnet.BasicBlock(after, after, norm_layer=norm),
    )


def count_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flip_and_normalize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] BGR -> float32 [B, 3, H, W] RGB, (x / 255 - mean) / std."""
    images = frames.to(torch.float32).permute(0, 3, 1, 2).flip(1) / 255.0
    return (images - mean[:, None, None]) / std[:, None, None]
