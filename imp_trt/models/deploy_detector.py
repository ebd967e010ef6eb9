# SPDX-License-Identifier: Apache-2.0
"""The instance detector with static shapes: top-k for selection, padding for lists, fixed-point NMS.

The layers (RPN, box and mask head) may have a lower precision. Coordinates, scores and probabilities are
always float32, so that the dtype of the layers does not affect the precision of boxes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imp_trt.errors import ExportError
from imp_trt.models.box_conventions import inclusive_limits, to_last_pixel
from imp_trt.models.config import DetectorConfig
from imp_trt.models.detector import MIN_BOX_SIDE, RPN_LEVELS, Detections, Detector
from imp_trt.models.nms import FixedPointNms
from imp_trt.ops.roi_align.torch import pyramid_roi_align

MAX_TOPK = 3840
"""TensorRT's limit on K of TopK."""


class StaticDetector(nn.Module):
    """RPN, box head and mask head with a fixed number of boxes at each stage.

    Args:
        detector: the eager detector; its layers are shared.
        image_size: (height, width) of the frames.
        nms_iterations: iterations of both NMS stages.
        dtype: of the layers once lowered, and of the matrices of both NMS stages.
    """

    level_rows: Tensor
    anchors: Tensor
    corners: Tensor
    least: Tensor
    largest: Tensor
    pair_labels: Tensor
    box_weights: Tensor

    def __init__(
        self, detector: Detector, image_size: tuple[int, int], nms_iterations: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        config = detector.config
        _check_sizes(config, detector.num_things)
        self.config = config
        self.num_things = detector.num_things
        self.rpn_head = detector.rpn.head
        self.rpn_clip = detector.rpn.box_coder.bbox_xform_clip
        self.box_head = detector.roi.box_head
        self.box_predictor = detector.roi.box_predictor
        weights = torch.tensor(detector.roi.box_coder.weights, dtype=torch.float32)
        self.register_buffer("box_weights", weights, persistent=False)
        self.box_clip = detector.roi.box_coder.bbox_xform_clip
        self.mask_head = detector.roi.mask_head
        self.mask_upsample = _deconvolution_as_convolution(detector.roi.mask_predictor.conv5_mask)
        logits = detector.roi.mask_predictor.mask_fcn_logits
        # Predictor channel 0 is torchvision's background. Parameters, so that lower_layers() converts them.
        weight, bias = logits.weight.detach()[1:].flatten(1), cast(Tensor, logits.bias).detach()[1:]
        self.mask_weight = nn.Parameter(weight.clone(), requires_grad=False)  # [C, channels]
        self.mask_bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.rpn_nms = FixedPointNms(config.rpn_nms, nms_iterations, dtype)
        self.box_nms = FixedPointNms(config.nms, nms_iterations, dtype)
        anchors = _anchors(detector, image_size)
        counts = [len(level) for level in anchors]
        # Candidates kept per level, padded to the count of p2, which has the most anchors.
        self.level_counts = [min(config.pre_nms_per_level, count) for count in counts]
        self.level_begins = [sum(counts[:level]) for level in range(len(counts))]
        rows = torch.arange(self.level_counts[0]) < torch.tensor(self.level_counts).unsqueeze(1)
        self.register_buffer("level_rows", rows, persistent=False)  # [L, K] bool, False on padding
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)
        height, width = image_size
        corners = torch.tensor([width, height, width, height], dtype=torch.float32)
        self.register_buffer("corners", corners, persistent=False)
        if config.inclusive_boxes:
            least, largest = inclusive_limits(image_size)
            self.register_buffer("least", least, persistent=False)
            self.register_buffer("largest", largest, persistent=False)
        pairs = torch.arange(self.num_things).repeat(config.proposals)
        self.register_buffer("pair_labels", pairs, persistent=False)  # [P * C] int64

    def forward(self, features: dict[str, Tensor]) -> tuple[Detections, Tensor]:
        """FPN features -> detections padded to N, and their mask probabilities [B, N, P, P]."""
        proposals, valid = self.propose(features)
        detections = self.detect(features, proposals, valid)
        return detections, self.masks(features, detections)

    def propose(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Proposals [B, P, 4] in descending order of objectness, and whether each is valid [B, P] bool."""
        objectness, deltas = self.rpn_head([features[name] for name in RPN_LEVELS])
        tops, indices = [], []
        for level, logits in enumerate(objectness):
            # [B, A, h, w] -> [B, hwA], in the order of the anchors
            top, index = logits.float().permute(0, 2, 3, 1).flatten(1).topk(self.level_counts[level], dim=1)
            missing = self.level_counts[0] - self.level_counts[level]
            tops.append(F.pad(top, (0, missing)))
            indices.append(F.pad(index + self.level_begins[level], (0, missing)))
        index = torch.stack(indices, 1)  # [B, L, K] indices into the anchors of all levels
        codes = torch.cat([d.float().permute(0, 2, 3, 1).reshape(len(d), -1, 4) for d in deltas], 1)
        anchors = take(self.anchors, index)
        codes = take_rows(codes, index.flatten(1)).reshape(anchors.shape)
        boxes = self._clip(decode_boxes(codes, anchors, None, self.rpn_clip))  # [B, L, K, 4]
        valid = _large_enough(boxes) & self.level_rows
        keep = self.rpn_nms(boxes, None, valid)
        ranked = torch.where(keep, torch.sigmoid(torch.stack(tops, 1)), -1.0).flatten(1)
        top, index = ranked.topk(min(self.config.proposals, ranked.shape[1]), dim=1)
        return take_rows(boxes.flatten(1, 2), index), top >= 0

    def detect(self, features: dict[str, Tensor], proposals: Tensor, valid: Tensor) -> Detections:
        """Classify and refine proposals [B, P, 4], of which ``valid`` [B, P] are real; NMS; pad to N."""
        batch, count = valid.shape
        logits, codes = self.box_predictor(self.box_head(self._pool(features, proposals, 7)))
        scores = torch.softmax(logits.float(), dim=-1)[:, 1:].reshape(batch, count, self.num_things)
        codes = codes.float().reshape(batch, count, self.num_things + 1, 4)[:, :, 1:]
        boxes = decode_boxes(codes, proposals.unsqueeze(2), self.box_weights, self.box_clip)
        boxes = self._clip(boxes)  # [B, P, C, 4]
        usable = (scores > self.config.score_threshold) & _large_enough(boxes) & valid.unsqueeze(2)
        ranked = torch.where(usable, scores, 0.0).flatten(1)
        top, index = ranked.topk(min(self.config.candidates, ranked.shape[1]), dim=1)
        boxes = take_rows(boxes.flatten(1, 2), index)
        labels = take(self.pair_labels, index)
        keep = self.box_nms(boxes, labels, top > 0)
        return self._best(boxes, torch.where(keep, top, 0.0), labels)

    def masks(self, features: dict[str, Tensor], detections: Detections) -> Tensor:
        """Mask probabilities [B, N, P, P] of the detected class; zeros on padding."""
        side = self.config.mask_size
        batch, count = detections.scores.shape
        x = F.relu(self.mask_upsample(self.mask_head(self._pool(features, detections.boxes, side // 2))))
        x = x.reshape(batch * count, 4, -1, (side // 2) ** 2)  # four output pixels per input pixel
        # Compute only the detected class, before the pixel shuffle.
        weight = take(self.mask_weight, detections.labels).reshape(batch * count, 1, 1, -1)
        bias = take(self.mask_bias, detections.labels).reshape(batch * count, 1, 1, 1)
        chosen = (weight @ x + bias).reshape(batch * count, 4, side // 2, side // 2)
        chosen = F.pixel_shuffle(chosen, 2)
        masks = torch.sigmoid(chosen.float()).reshape(batch, count, side, side)
        return torch.where((detections.scores > 0)[:, :, None, None], masks, 0.0)

    def _pool(self, features: dict[str, Tensor], boxes: Tensor, size: int) -> Tensor:
        config = self.config
        if config.inclusive_boxes:
            boxes = to_last_pixel(boxes)
        levels = [features[name] for name in ("p2", "p3", "p4", "p5")]
        return pyramid_roi_align(
            levels[0],
            levels[1],
            levels[2],
            levels[3],
            boxes,
            size,
            config.roi_samples,
            config.canonical_level,
            config.canonical_size,
            config.roi_aligned,
        )

    def _clip(self, boxes: Tensor) -> Tensor:  # [..., 4] xyxy, clipped to the image
        if self.config.inclusive_boxes:
            return torch.minimum(torch.maximum(boxes, self.least), self.largest)
        return torch.minimum(boxes.clamp(min=0), self.corners)

    def _best(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
        """The N highest-scoring of K candidates; suppressed ones have score 0."""
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
    """values [B, M, ...], index [B, K] -> [B, K, ...], as one gather on the flattened rows."""
    batch, rows = values.shape[:2]
    if batch > 1:
        index = index + (torch.arange(batch, device=index.device) * rows).unsqueeze(1)
    return take(values.flatten(0, 1), index)


def decode_boxes(codes: Tensor, boxes: Tensor, weights: Tensor | None, clip: float) -> Tensor:
    """Decode box regression codes, in the operation order of torchvision's BoxCoder.

    Args:
        codes: [..., 4] float32 (dx, dy, dw, dh).
        boxes: [..., 4] float32 xyxy, broadcast against codes.
        weights: [4] float32 divisors of the codes; None for ones.
        clip: upper bound of dw and dh.
    """
    low, size = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    if weights is not None:
        codes = codes / weights
    center = codes[..., :2] * size + (low + 0.5 * size)
    half = 0.5 * (torch.exp(codes[..., 2:].clamp(max=clip)) * size)
    return torch.cat([center - half, center + half], -1)


def _deconvolution_as_convolution(deconvolution: nn.ConvTranspose2d) -> nn.Conv2d:
    """1x1 convolution equivalent to a 2x2 deconvolution with stride 2: [N, I, h, w] -> [N, 4 * O, h, w].

    Channel k * O + o is channel o of output pixel k of each 2x2 block, in row-major order.
    """
    in_channels, out_channels = deconvolution.weight.shape[:2]
    convolution = nn.Conv2d(in_channels, 4 * out_channels, 1)
    weight = deconvolution.weight.detach().permute(2, 3, 1, 0)  # [2, 2, O, I]
    weight = weight.reshape(4 * out_channels, in_channels, 1, 1)
    convolution.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    bias = cast(Tensor, deconvolution.bias).detach().repeat(4)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    return convolution


def _anchors(detector: Detector, image_size: tuple[int, int]) -> list[Tensor]:
    """Anchors [hwA, 4] xyxy of each RPN level, from the eager detector's anchor generator."""
    generator = detector.rpn.anchor_generator
    sides = [(image_size[0] // stride, image_size[1] // stride) for stride in (4, 8, 16, 32)]
    grids = [list(side) for side in sides] + [[(n - 1) // 2 + 1 for n in sides[-1]]]
    # torchvision rounds the stride of p6 down if its grid size is odd.
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
