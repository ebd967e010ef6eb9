"""The static form of the network: uint8 frame in, six fixed-size outputs, nothing data-dependent.

The eager network (imp_trt.models.network) trains and works on lists of real boxes. This module computes
the same from the same weights with fixed shapes: top-k instead of selection, padding with score 0 (which
neither suppresses a box nor draws on the canvas) instead of lists, and NMS as a fixed point. It is what
is exported, and it runs in PyTorch too, where the parity of the two is tested.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from imp_trt.errors import ExportError
from imp_trt.models.config import DetectorConfig
from imp_trt.models.detector import MIN_BOX_SIDE, RPN_LEVELS, SAMPLING_RATIO, Detections, Detector
from imp_trt.models.network import ImpNetwork
from imp_trt.models.nms import DEFAULT_PASSES, FixedPointNms, watch_convergence
from imp_trt.ops.multilevel_roi_align import pyramid_roi_align

OUTPUT_NAMES = ("semantic", "boxes", "scores", "labels", "masks", "num_detections")
"""Outputs of the deploy module and of every exported graph, in order."""

MAX_TOPK = 3840
"""TensorRT's limit on K of TopK."""


class DeployModule(nn.Module):
    """One network with static shapes.

    Args:
        network: trained network; its weights are copied, with batch normalisation folded.
        passes: passes of each fixed-point NMS, see imp_trt.models.nms.

    Raises:
        ExportError: a size of the config is beyond what every runtime can do.
    """

    scale: Tensor
    shift: Tensor
    thing_classes: Tensor

    def __init__(self, network: ImpNetwork, passes: int = DEFAULT_PASSES) -> None:
        super().__init__()
        self.config = network.config
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        fold_batch_norm(self.network)
        scale, shift = _fold_channel_order(self.network)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.detector: StaticDetector | None = None
        if self.network.detector is not None:
            self.detector = StaticDetector(self.network.detector, self.config.input_size, passes)
            self.network.detector = None
        things = torch.tensor(self.config.classes.things, dtype=torch.int32)
        self.register_buffer("thing_classes", things, persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Evaluate frames uint8 [B, H, W, 3] BGR of exactly the config's input size.

        Returns:
            In the order of OUTPUT_NAMES: semantic uint8 [B, H, W]; boxes float32 [B, N, 4] xyxy pixels;
            scores float32 [B, N] descending; labels int32 [B, N] semantic class index; masks float32
            [B, N, P, P]; num_detections int32 [B]. Rows past num_detections are zeros.
        """
        size = self.config.input_size
        features = self._features(frames)
        if self.detector is None:
            return self._semantic(features, None), *self._no_instances(frames.shape[0])
        found, masks = self.detector(features)
        canvas = self.network.project(found, masks, size) if self.config.imp else None
        semantic = self._semantic(features, canvas)
        classes = take(self.thing_classes, found.labels)
        labels = torch.where(found.scores > 0, classes, 0)
        return (
            semantic,
            found.boxes,
            found.scores,
            labels.to(torch.int32),
            masks,
            found.counts.to(torch.int32),
        )

    @torch.no_grad()
    def unsettled(self, frames: Tensor) -> int:
        """How many NMS keep flags one more pass would change on these frames [B, H, W, 3]; 0 is exact."""
        if self.detector is None:
            return 0
        with watch_convergence(self.detector) as seen:
            features = self._features(frames)
            self.detector.detect(features, *self.detector.propose(features))
        return seen.unsettled

    def _features(self, frames: Tensor) -> dict[str, Tensor]:
        # Cast first: TensorRT takes uint8 nowhere but at the borders of the graph.
        images = frames.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.shift
        return cast(dict[str, Tensor], self.network.backbone(images))

    def _semantic(self, features: dict[str, Tensor], canvas: Tensor | None) -> Tensor:
        return self.network.segment(features, canvas).argmax(dim=1).to(torch.uint8)

    def _no_instances(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        side = self.config.detector_config.mask_size
        return (
            torch.zeros(batch, 0, 4),
            torch.zeros(batch, 0),
            torch.zeros(batch, 0, dtype=torch.int32),
            torch.zeros(batch, 0, side, side),
            torch.zeros(batch, dtype=torch.int32),
        )


class StaticDetector(nn.Module):
    """RPN, box head and mask head with a fixed number of boxes at every stage.

    Args:
        detector: the eager detector, whose layers are used.
        image_size: (height, width) of the frames.
        passes: passes of both NMS stages.
    """

    level_rows: Tensor
    anchors: Tensor
    corners: Tensor
    pair_labels: Tensor
    mask_weight: Tensor
    mask_bias: Tensor

    def __init__(self, detector: Detector, image_size: tuple[int, int], passes: int) -> None:
        super().__init__()
        config = detector.config
        _check_sizes(config, detector.num_things)
        self.config = config
        self.num_things = detector.num_things
        self.rpn_head = detector.rpn.head
        self.rpn_clip = detector.rpn.box_coder.bbox_xform_clip
        self.box_head = detector.roi.box_head
        self.box_predictor = detector.roi.box_predictor
        self.box_weights = detector.roi.box_coder.weights
        self.box_clip = detector.roi.box_coder.bbox_xform_clip
        self.mask_head = detector.roi.mask_head
        self.mask_upsample = _deconvolution_as_convolution(detector.roi.mask_predictor.conv5_mask)
        logits = detector.roi.mask_predictor.mask_fcn_logits
        # Predictor channel 0 is torchvision's background.
        self.register_buffer("mask_weight", logits.weight.detach()[1:].flatten(1).clone())  # [C, channels]
        self.register_buffer("mask_bias", cast(Tensor, logits.bias).detach()[1:].clone())
        self.rpn_nms = FixedPointNms(config.rpn_nms, passes)
        self.box_nms = FixedPointNms(config.nms, passes)
        anchors = _anchors(detector, image_size)
        counts = [len(level) for level in anchors]
        # Candidates kept on each level; the first has the most anchors, so its count is the padded one.
        self.level_counts = [min(config.pre_nms_per_level, count) for count in counts]
        self.level_begins = [sum(counts[:level]) for level in range(len(counts))]
        rows = torch.arange(self.level_counts[0]) < torch.tensor(self.level_counts).unsqueeze(1)
        self.register_buffer("level_rows", rows, persistent=False)  # [L, K] bool, False on padding
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)
        height, width = image_size
        corners = torch.tensor([width, height, width, height], dtype=torch.float32)
        self.register_buffer("corners", corners, persistent=False)
        pairs = torch.arange(self.num_things).repeat(config.proposals)
        self.register_buffer("pair_labels", pairs, persistent=False)  # label of (proposal, class) pairs

    def forward(self, features: dict[str, Tensor]) -> tuple[Detections, Tensor]:
        """Pyramid -> detections padded to N, and their mask probabilities [B, N, P, P]."""
        proposals, real = self.propose(features)
        found = self.detect(features, proposals, real)
        return found, self.masks(features, found)

    def propose(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Proposals [B, P, 4] by falling objectness, and which of them are real [B, P] bool."""
        objectness, deltas = self.rpn_head([features[name] for name in RPN_LEVELS])
        tops, indices = [], []
        for level, logits in enumerate(objectness):
            # [B, A, h, w] -> [B, hwA], the order of the anchors
            top, index = logits.permute(0, 2, 3, 1).flatten(1).topk(self.level_counts[level], dim=1)
            missing = self.level_counts[0] - self.level_counts[level]
            tops.append(F.pad(top, (0, missing)))
            indices.append(F.pad(index + self.level_begins[level], (0, missing)))
        index = torch.stack(indices, 1)  # [B, L, K], rows of the anchors of all levels
        codes = torch.cat([d.permute(0, 2, 3, 1).reshape(d.shape[0], -1, 4) for d in deltas], 1)
        anchors = take(self.anchors, index)
        codes = take_rows(codes, index.flatten(1)).reshape(anchors.shape)
        boxes = self._clip(decode_boxes(codes, anchors, (1.0,) * 4, self.rpn_clip))  # [B, L, K, 4]
        valid = _large_enough(boxes) & self.level_rows
        keep = self.rpn_nms(boxes, None, valid)
        ranked = torch.where(keep, torch.sigmoid(torch.stack(tops, 1)), -1.0).flatten(1)
        top, index = ranked.topk(min(self.config.proposals, ranked.shape[1]), dim=1)
        return take_rows(boxes.flatten(1, 2), index), top >= 0

    def detect(self, features: dict[str, Tensor], proposals: Tensor, real: Tensor) -> Detections:
        """Classify and refine proposals, suppress duplicates of a class, pad to N."""
        batch, count = real.shape
        logits, codes = self.box_predictor(self.box_head(self._pool(features, proposals, 7)))
        scores = torch.softmax(logits.float(), dim=-1)[:, 1:].reshape(batch, count, self.num_things)
        codes = codes.float().reshape(batch, count, self.num_things + 1, 4)[:, :, 1:]
        boxes = decode_boxes(codes, proposals.unsqueeze(2), self.box_weights, self.box_clip)
        boxes = self._clip(boxes)  # [B, P, C, 4]
        usable = (scores > self.config.score_threshold) & _large_enough(boxes) & real.unsqueeze(2)
        ranked = torch.where(usable, scores, 0.0).flatten(1)
        top, index = ranked.topk(min(self.config.candidates, ranked.shape[1]), dim=1)
        boxes = take_rows(boxes.flatten(1, 2), index)
        labels = take(self.pair_labels, index)
        keep = self.box_nms(boxes, labels, top > 0)
        return self._best(boxes, torch.where(keep, top, 0.0), labels)

    def masks(self, features: dict[str, Tensor], found: Detections) -> Tensor:
        """Mask probabilities [B, N, P, P] of the detected class; zeros on padding."""
        side = self.config.mask_size
        batch, count = found.scores.shape
        x = F.relu(self.mask_upsample(self.mask_head(self._pool(features, found.boxes, side // 2))))
        x = x.reshape(batch * count, 4, -1, (side // 2) ** 2)  # four output pixels of each input pixel
        # Only the detected class is computed, before the four pixels go to their places.
        weight = take(self.mask_weight, found.labels).reshape(batch * count, 1, 1, -1)
        bias = take(self.mask_bias, found.labels).reshape(batch * count, 1, 1, 1)
        chosen = (weight @ x + bias).reshape(batch * count, 4, side // 2, side // 2)
        chosen = F.pixel_shuffle(chosen, 2)
        masks = torch.sigmoid(chosen.float()).reshape(batch, count, side, side)
        return torch.where((found.scores > 0)[:, :, None, None], masks, 0.0)

    def _pool(self, features: dict[str, Tensor], boxes: Tensor, size: int) -> Tensor:
        config = self.config
        levels = [features[name] for name in ("p2", "p3", "p4", "p5")]
        return pyramid_roi_align(
            levels[0],
            levels[1],
            levels[2],
            levels[3],
            boxes,
            size,
            SAMPLING_RATIO,
            config.canonical_level,
            config.canonical_size,
        )

    def _clip(self, boxes: Tensor) -> Tensor:  # [..., 4] xyxy, to the image
        return torch.minimum(boxes.clamp(min=0), self.corners)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """The N best of K candidates, suppressed ones having score 0."""
        count = self.config.detections
        top, index = scores.topk(min(count, scores.shape[1]), dim=1)
        real = top > 0
        missing = count - top.shape[1]
        boxes = torch.where(real.unsqueeze(2), take_rows(boxes, index), 0.0)
        labels = torch.where(real, take_rows(labels.unsqueeze(2), index).squeeze(2), 0)
        return Detections(
            F.pad(boxes, (0, 0, 0, missing)),
            F.pad(top, (0, missing)),
            F.pad(labels, (0, missing)),
            real.to(torch.float32).sum(dim=1).to(torch.int64),
        )


def take(table: Tensor, index: Tensor) -> Tensor:
    """table [M, ...], index [...] -> [*index.shape, ...]; one Gather in the exported graph."""
    return table.index_select(0, index.flatten()).reshape(*index.shape, *table.shape[1:])


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """values [B, M, ...], index [B, K] -> [B, K, ...], as one gather over the rows of the flat table."""
    batch, rows = values.shape[:2]
    if batch > 1:
        index = index + (torch.arange(batch, device=index.device) * rows).unsqueeze(1)
    return take(values.flatten(0, 1), index)


def decode_boxes(codes: Tensor, boxes: Tensor, weights: tuple[float, ...], clip: float) -> Tensor:
    """Boxes moved by regression codes, in the operation order of torchvision's BoxCoder.

    Args:
        codes: [..., 4] float32 (dx, dy, dw, dh).
        boxes: [..., 4] float32 xyxy, broadcast against codes.
        weights: divisors of the codes.
        clip: upper bound of dw and dh.
    """
    low, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    if any(w != 1 for w in weights):
        codes = codes / torch.tensor(weights, device=codes.device)
    centre = codes[..., :2] * size + (low + 0.5 * size)
    half = 0.5 * (torch.exp(codes[..., 2:].clamp(max=clip)) * size)
    return torch.cat([centre - half, centre + half], -1)


def fold_batch_norm(module: nn.Module) -> None:
    """Folds every batch normalisation (frozen or not) into the convolution registered just before it.

    That is the order in which torchvision's blocks and this package's layers are applied.
    """
    before: nn.Module | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d | FrozenBatchNorm2d) and isinstance(before, nn.Conv2d):
            mean, variance = cast(Tensor, child.running_mean), cast(Tensor, child.running_var)
            weight, bias = fuse_conv_bn_weights(
                before.weight, before.bias, mean, variance, child.eps, child.weight, child.bias
            )
            before.weight = nn.Parameter(weight.detach(), requires_grad=False)
            before.bias = nn.Parameter(bias.detach(), requires_grad=False)
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norm(child)
        before = child


def _fold_channel_order(network: ImpNetwork) -> tuple[Tensor, Tensor]:
    """Makes the first convolution take BGR; returns scale and shift [3, 1, 1] of 0-255 BGR pixels."""
    first = next(m for m in network.backbone.modules() if isinstance(m, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().flip(1), requires_grad=False)
    mean, std = network.mean.flip(0), network.std.flip(0)
    return (1 / (255 * std))[:, None, None], (-mean / std)[:, None, None]


def _deconvolution_as_convolution(deconvolution: nn.ConvTranspose2d) -> nn.Conv2d:
    """The 1x1 convolution that computes a 2x2 deconvolution of stride 2: [N, I, h, w] -> [N, 4 * O, h, w].

    Channel k * O + o is channel o of output pixel k of each 2x2 block, in row order.
    """
    before, after = deconvolution.weight.shape[:2]
    convolution = nn.Conv2d(before, 4 * after, 1)
    weight = deconvolution.weight.detach().permute(2, 3, 1, 0).reshape(4 * after, before, 1, 1)
    convolution.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    bias = cast(Tensor, deconvolution.bias).detach().repeat(4)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    return convolution


def _anchors(detector: Detector, image_size: tuple[int, int]) -> list[Tensor]:
    """Anchors [hwA, 4] of each RPN level, from the eager detector's own generator."""
    generator = detector.rpn.anchor_generator
    sides = [(image_size[0] // stride, image_size[1] // stride) for stride in (4, 8, 16, 32)]
    grids = [list(side) for side in sides] + [[(n - 1) // 2 + 1 for n in sides[-1]]]
    # torchvision rounds the stride of p6 down where its grid is odd.
    strides = [[torch.tensor(n // g) for n, g in zip(image_size, grid, strict=True)] for grid in grids]
    generator.set_cell_anchors(torch.float32, next(detector.parameters()).device)
    return cast(list[Tensor], generator.grid_anchors(grids, strides))


def _large_enough(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= MIN_BOX_SIDE


def _check_sizes(config: DetectorConfig, num_things: int) -> None:
    for name in ("pre_nms_per_level", "proposals", "candidates", "detections"):
        value = getattr(config, name)
        if not 1 <= value <= MAX_TOPK:
            raise ExportError(f"detector_config.{name}", expected=f"1 to {MAX_TOPK}", got=value)
    if num_things < 1:
        raise ExportError("detector", expected="at least one thing class", got=num_things)
