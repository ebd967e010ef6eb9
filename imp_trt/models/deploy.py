# SPDX-License-Identifier: Apache-2.0
"""The static form of the network for export: uint8 frames in, six outputs of fixed shapes.

The eager network (imp_trt.models.network) is trained and uses lists of boxes. This module computes
the same with the same weights and fixed shapes: top-k instead of selection, padding with score 0 (which
neither suppresses a box nor contributes to the canvas) instead of lists, and NMS as a fixed-point iteration.
It also runs in PyTorch, where both forms are tested to agree.
"""

from __future__ import annotations

import copy
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.errors import ExportError
from imp_trt.models.config import NMS_ITERATIONS, ModelConfig
from imp_trt.models.deploy_detector import StaticDetector, take
from imp_trt.models.detector import Detections
from imp_trt.models.network import CANVAS_STRIDE, ImpNetwork
from imp_trt.models.nms import watch_convergence
from imp_trt.models.semantic import SemanticHead
from imp_trt.ops.mask_projection.torch import instance_mask_projection

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Supported dtypes of the layers."""


class DeployModule(nn.Module):
    """A network with static shapes.

    Args:
        network: trained network; its weights are copied, with batch normalization folded.
        nms_iterations: iterations of each fixed-point NMS, see imp_trt.models.nms.
        dtype: dtype of the layers (backbone, FPN, all heads), of the canvas, and of the flags of NMS, one of
            DTYPES. Image normalization, box decoding, IoUs, scores and mask probabilities, and the statistics
            of group normalization are always float32; the dtypes of the outputs do not depend on it.
        passes: deprecated, use nms_iterations.

    Raises:
        ExportError: a size of the config exceeds a limit of the runtimes, or a weight exceeds the
            range of dtype.
    """

    scale: Tensor
    shift: Tensor
    thing_classes: Tensor

    def __init__(
        self,
        network: ImpNetwork,
        nms_iterations: int = NMS_ITERATIONS,
        dtype: torch.dtype = torch.float32,
        *,
        passes: int | None = None,
    ) -> None:
        super().__init__()
        if passes is not None:
            warnings.warn(
                "DeployModule(passes=...) is deprecated, use nms_iterations", DeprecationWarning, stacklevel=2
            )
            nms_iterations = passes
        if dtype not in DTYPES:
            expected = " or ".join(str(t) for t in DTYPES)
            raise ExportError("dtype of the layers", expected=expected, got=dtype)
        self.config = network.config
        self.dtype = dtype
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        fold_batch_norm(self.network)
        if isinstance(self.network.semantic, SemanticHead):
            self.network.semantic.fold_canvas_scale()
        scale, shift = _fold_channel_order(self.network)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.detector: StaticDetector | None = None
        if self.network.detector is not None:
            self.detector = StaticDetector(
                self.network.detector, self.config.input_size, nms_iterations, dtype
            )
            self.network.detector = None
            lower_layers(self.detector, dtype)
        lower_layers(self.network, dtype)
        things = torch.tensor(self.config.classes.things, dtype=torch.int32)
        self.register_buffer("thing_classes", things, persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Evaluate frames uint8 [B, H, W, 3] BGR of the config's input size.

        Returns:
            In the order of OUTPUT_NAMES: semantic uint8 [B, H, W]; boxes float32 [B, N, 4] xyxy pixels;
            scores float32 [B, N] descending; labels int32 [B, N] semantic class index; masks float32
            [B, N, P, P]; num_detections int32 [B]. Rows past num_detections are zeros.
        """
        features = self._features(frames)
        if self.detector is None:
            return self._semantic(features, None), *self._no_instances(frames.shape[0])
        detections, masks = self.detector(features)
        canvas = self._project(detections, masks) if self.config.imp else None
        semantic = self._semantic(features, canvas)
        classes = take(self.thing_classes, detections.labels)
        labels = torch.where(detections.scores > 0, classes, 0)
        return (
            semantic,
            detections.boxes,
            detections.scores,
            labels.to(torch.int32),
            masks,
            detections.counts.to(torch.int32),
        )

    @torch.no_grad()
    def unconverged(self, frames: Tensor) -> int:
        """Number of NMS keep flags that one more iteration changes on frames [B, H, W, 3]; 0 is exact."""
        if self.detector is None:
            return 0
        with watch_convergence(self.detector) as convergence:
            features = self._features(frames)
            self.detector.detect(features, *self.detector.propose(features))
        return convergence.unconverged

    def unsettled(self, frames: Tensor) -> int:
        """Deprecated: use :meth:`unconverged`."""
        warnings.warn("unsettled() is deprecated, use unconverged()", DeprecationWarning, stacklevel=2)
        return self.unconverged(frames)

    def _features(self, frames: Tensor) -> dict[str, Tensor]:
        return _features(self, frames)

    def _project(self, detections: Detections, masks: Tensor) -> Tensor:
        height, width = self.config.input_size
        return instance_mask_projection(
            detections.boxes,
            detections.scores,
            detections.labels,
            masks.to(self.dtype),
            self.config.num_things,
            (height // CANVAS_STRIDE, width // CANVAS_STRIDE),
            1.0 / CANVAS_STRIDE,
            self.config.sampling,
        )

    def _semantic(self, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
        return _class_map(self.network, features, canvas)

    def _no_instances(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        side = self.config.detector_config.mask_size
        return (
            torch.zeros(batch, 0, 4, dtype=torch.float32),
            torch.zeros(batch, 0, dtype=torch.float32),
            torch.zeros(batch, 0, dtype=torch.int32),
            torch.zeros(batch, 0, side, side, dtype=torch.float32),
            torch.zeros(batch, dtype=torch.int32),
        )


class CanvasModule(nn.Module):
    """Backbone and semantic head of a network with IMP; the canvas is an input instead of the detector.

    Args:
        whole: the static form of the network, whose layers it shares; without quantization its class map on
            the canvas of `whole` is that of `whole`.

    Raises:
        ExportError: the network's semantic head does not read both features and canvas.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, whole: DeployModule) -> None:
        super().__init__()
        if not has_canvas_part(whole.config):
            raise ExportError(
                "a canvas part",
                expected="a network with IMP whose semantic head reads features and canvas",
                got=f"{'IMP' if whole.config.imp else 'no IMP'}, "
                f"semantic head {whole.config.semantic_head!r}",
            )
        self.config, self.dtype = whole.config, whole.dtype
        self.network = whole.network
        self.register_buffer("scale", whole.scale, persistent=False)
        self.register_buffer("shift", whole.shift, persistent=False)

    def forward(self, frames: Tensor, canvas: Tensor) -> Tensor:
        """Class map uint8 [B, H, W].

        Args:
            frames: uint8 [B, H, W, 3] BGR of the config's input size.
            canvas: float32 [B, T, H/4, W/4], at least 0.
        """
        return _class_map(self.network, _features(self, frames), canvas.to(self.dtype))

    def canvas_shape(self, batch: int) -> tuple[int, int, int, int]:
        """[B, T, H/4, W/4] of the canvas."""
        height, width = self.config.input_size
        return batch, self.config.num_things, height // CANVAS_STRIDE, width // CANVAS_STRIDE


def has_canvas_part(config: ModelConfig) -> bool:
    """Whether the class map of a network depends on the features and on a canvas."""
    return config.imp and config.detector and config.semantic_head != "none"


def _features(module: DeployModule | CanvasModule, frames: Tensor) -> dict[str, Tensor]:
    # Cast first: TensorRT supports uint8 only at the graph's inputs and outputs.
    images = frames.to(torch.float32).permute(0, 3, 1, 2) * module.scale + module.shift
    return cast(dict[str, Tensor], module.network.backbone(images.to(module.dtype)))


def _class_map(network: ImpNetwork, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
    return network.segment(features, canvas).argmax(dim=1).to(torch.uint8)


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch normalization (frozen or not) into the convolution registered directly before it.

    In torchvision's blocks and this package's layers, modules are applied in the order of registration.
    """
    previous: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d) and isinstance(previous, nn.Conv2d):
            mean, variance = cast(Tensor, child.running_mean), cast(Tensor, child.running_var)
            scale, shift = cast(Tensor, child.weight), cast(Tensor, child.bias)
            weight, bias = fuse_conv_bn_weights(
                previous.weight, previous.bias, mean, variance, child.eps, scale, shift
            )
            previous.weight = nn.Parameter(weight.detach(), requires_grad=False)
            previous.bias = nn.Parameter(bias.detach(), requires_grad=False)
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        previous = child


def _fold_channel_order(network: ImpNetwork) -> tuple[Tensor, Tensor]:
    """Make the first convolution accept BGR; returns scale and shift [3, 1, 1] for BGR pixels in 0-255."""
    first = next(m for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().flip(1), requires_grad=False)
    mean, std = network.mean.flip(0), network.std.flip(0)
    return (1 / (255 * std))[:, None, None], (-mean / std)[:, None, None]


class Float32GroupNorm(nn.Module):
    """Group normalization with float32 statistics: sums of squares overflow in float16."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W], any dtype, which the result has too
        return cast(Tensor, self.norm(x.float())).to(x.dtype)


def lower_layers(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the parameters of a module's layers to dtype, except those of group normalization.

    Raises:
        ExportError: a weight exceeds the range of dtype.
    """
    if dtype == torch.float32:
        return
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(module, name, Float32GroupNorm(child))
        else:
            lower_layers(child, dtype)
    for name, parameter in module.named_parameters(recurse=False):
        limit = torch.finfo(dtype).max
        if not bool((parameter.abs() <= limit).all()):
            raise ExportError(
                f"{type(module).__name__}.{name}",
                expected=f"weights within the range of {dtype}, {limit:g}",
                got=f"up to {float(parameter.abs().max()):g}",
                fix="export with --engine fp32 or bf16",
            )
        parameter.data = parameter.data.to(dtype)
