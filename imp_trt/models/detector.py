# SPDX-License-Identifier: Apache-2.0
"""The instance detector: torchvision's Mask R-CNN parts with fixed-size results.

torchvision's post-processing returns lists, and no detections in training mode. IMP needs padded
detections with gradients, in training and evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align

from imp_trt.models.backbone import LEVELS
from imp_trt.models.box_conventions import ShiftedAnchors, keep_a_pixel, to_last_pixel
from imp_trt.models.config import DetectorConfig
from imp_trt.ops.roi_align.torch import pyramid_roi_align

MIN_BOX_SIDE = 1e-3
"""Sides below this are dropped (pixels); torchvision's RPN uses the same value."""

MASKS_AT_ONCE = 16
"""Maximum number of full-image masks that are float32 at the same time when targets are computed."""

RPN_LEVELS = (*LEVELS, "p6")


@dataclass(frozen=True)
class Detections:
    """Detections of a batch, padded to N rows of zeros.

    Attributes:
        boxes: [B, N, 4] xyxy, input pixels, float32; no gradient.
        scores: [B, N] class probability, descending, 0 on padding; carries gradient in training.
        labels: [B, N] int64 thing index (canvas channel).
        counts: [B] int64 real detections.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor


class Detector(nn.Module):
    """RPN, box head and mask head on FPN features.

    Args:
        channels: channels of the FPN.
        num_things: number of thing classes, without background.
        config: sizes and thresholds.
    """

    def __init__(self, channels: int, num_things: int, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.num_things = num_things
        self.rpn = _region_proposals(channels, config)
        # Any: torchvision declares the mask modules of RoIHeads as optional; here they are always present.
        self.roi: Any = _roi_heads(channels, num_things, config)

    def propose(self, features: dict[str, Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Proposals of each image, [P_i, 4] xyxy pixels, in descending order of objectness; no gradient."""
        proposals, _ = self.rpn(*_rpn_inputs(features, image_size))
        return list(proposals)

    def detect(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_size: tuple[int, int]
    ) -> Detections:
        """Classify and refine proposals, suppress duplicates of a class, pad to N.

        Args:
            features: FPN features by level, [B, channels, h, w].
            proposals: per image [P_i, 4] xyxy pixels.
            image_size: (height, width) that boxes are clipped to.
        """
        pooled = self.roi.box_roi_pool(features, proposals, [image_size] * len(proposals))
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))
        probabilities = torch.softmax(logits.float(), dim=-1)
        sizes = [len(p) for p in proposals]
        with torch.no_grad():
            decoded = self.roi.box_coder.decode(deltas.float(), proposals)
        if self.config.inclusive_boxes:
            decoded = keep_a_pixel(decoded, image_size)
        rows = [
            self._select(p, clip_boxes_to_image(b, image_size))
            for p, b in zip(torch.split(probabilities, sizes), torch.split(decoded, sizes), strict=True)
        ]
        return _stack(rows, self.config.detections)

    def _select(self, probabilities: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One image: [P, C+1] probabilities, [P, C+1, 4] boxes -> kept (boxes, scores, labels)."""
        scores = probabilities[:, 1:].flatten()
        boxes = boxes[:, 1:].reshape(-1, 4)
        with torch.no_grad():
            sides = boxes[:, 2:] - boxes[:, :2]
            usable = (scores > self.config.score_threshold) & (sides >= MIN_BOX_SIDE).all(dim=1)
            ranked = torch.where(usable, scores, scores.new_zeros(()))
            # Stable: ties keep the order of (proposal, class) pairs, as in the static form.
            order = torch.sort(ranked, descending=True, stable=True).indices[: self.config.candidates]
            order = order[: int(usable.sum())]
            labels = order % self.num_things
            keep = batched_nms(boxes[order], scores[order].float(), labels, self.config.nms)
            keep = keep[: self.config.detections]
        return boxes[order[keep]], scores[order[keep]], labels[keep]

    def masks(self, features: dict[str, Tensor], detections: Detections) -> Tensor:
        """Mask probabilities [B, N, P, P] of the detected class; zeros on padding."""
        batch, padded = detections.scores.shape
        side = self.config.mask_size
        boxes = [b[:n] for b, n in zip(detections.boxes, detections.counts.tolist(), strict=True)]
        valid = torch.arange(padded, device=detections.counts.device) < detections.counts[:, None]
        if not valid.any():
            return detections.scores.new_zeros(batch, padded, side, side)
        # The image size only determines the strides; RoIAlign does not clip.
        size = (features["p2"].shape[-2] * 4, features["p2"].shape[-1] * 4)
        pooled = self.roi.mask_roi_pool(features, boxes, [size] * batch)
        logits = self.roi.mask_predictor(self.roi.mask_head(pooled))
        labels = detections.labels[valid]
        # Predictor channel 0 is torchvision's background; it is never trained.
        chosen = logits[torch.arange(len(labels), device=labels.device), labels + 1]
        masks = detections.scores.new_zeros(batch, padded, side, side)
        masks[valid] = torch.sigmoid(chosen.float())
        return masks

    def losses(
        self, features: dict[str, Tensor], image_size: tuple[int, int], targets: list[dict[str, Tensor]]
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses of RPN, box and mask heads; the module must be in training mode.

        Args:
            features: FPN features by level, [B, channels, h, w].
            image_size: (height, width).
            targets: per image: boxes [K, 4] xyxy pixels; labels [K] int64, thing index + 1;
                masks [K, H, W] uint8.

        Returns:
            Losses by name, and the proposals, detached.
        """
        proposals, losses = self.rpn(*_rpn_inputs(features, image_size), targets)
        sizes = [image_size] * len(proposals)
        boxes, matched, labels, codes = self.roi.select_training_samples(proposals, targets)
        pooled = self.roi.box_roi_pool(features, boxes, sizes)
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))
        classifier, regression = fastrcnn_loss(logits, deltas, labels, codes)
        things = [label > 0 for label in labels]
        boxes, matched, labels = (
            [values[chosen] for values, chosen in zip(part, things, strict=True)]
            for part in (boxes, matched, labels)
        )
        pooled = self.roi.mask_roi_pool(features, boxes, sizes)
        masks = self.roi.mask_predictor(self.roi.mask_head(pooled))
        targets_per_image = [
            mask_targets(t["masks"], b, m, self.config.mask_size)
            for t, b, m in zip(targets, boxes, matched, strict=True)
        ]
        roi_losses = {
            "loss_classifier": classifier,
            "loss_box_reg": regression,
            "loss_mask": _mask_loss(masks, torch.cat(labels), torch.cat(targets_per_image)),
        }
        return {**losses, **roi_losses}, [p.detach() for p in proposals]


class PyramidRoIPool(nn.Module):
    """RoIAlign of other code bases, with the parameters of torchvision's MultiScaleRoIAlign."""

    def __init__(self, size: int, config: DetectorConfig) -> None:
        super().__init__()
        self.size, self.config = size, config

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Boxes [P_i, 4] of each image -> [sum of P_i, channels, size, size]."""
        config = self.config
        if config.inclusive_boxes:
            boxes = [to_last_pixel(rois) for rois in boxes]
        pooled = [
            pyramid_roi_align(
                features["p2"][i : i + 1],
                features["p3"][i : i + 1],
                features["p4"][i : i + 1],
                features["p5"][i : i + 1],
                rois[None],
                self.size,
                config.roi_samples,
                config.canonical_level,
                config.canonical_size,
                aligned=config.roi_aligned,
            )
            for i, rois in enumerate(boxes)
        ]
        return torch.cat(pooled)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """torchvision.ops.box_iou, to the bit, on planes of coordinates: a fifth of a training step less.

    With [M, N, 2] arrays the innermost loops are two elements long, and all anchors of an image are matched.

    Args:
        boxes1: [M, 4] float32 xyxy.
        boxes2: [N, 4] float32 xyxy.

    Returns:
        [M, N] float32.
    """
    left1, top1, right1, bottom1 = boxes1.t().unsqueeze(-1).contiguous()  # [M, 1] each
    left2, top2, right2, bottom2 = boxes2.t().contiguous()  # [N] each
    width = torch.minimum(right1, right2).sub_(torch.maximum(left1, left2)).clamp_(min=0)
    height = torch.minimum(bottom1, bottom2).sub_(torch.maximum(top1, top2)).clamp_(min=0)
    intersection = width.mul_(height)
    area1 = (right1 - left1) * (bottom1 - top1)
    area2 = (right2 - left2) * (bottom2 - top2)
    iou: Tensor = intersection / (area1 + area2).sub_(intersection)
    return iou


class _Float32RPNHead(RPNHead):  # type: ignore[misc]  # torchvision has no types
    """Scores and deltas in float32 under autocast: torchvision decodes boxes in the dtype of the deltas."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _InclusiveProposals(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """Proposals outside of the image keep a pixel in it, where torchvision drops them."""

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """See torchvision; all images have one size."""
        proposals = keep_a_pixel(proposals, image_shapes[0])
        found = super().filter_proposals(proposals, objectness, image_shapes, num_anchors_per_level)
        return cast("tuple[list[Tensor], list[Tensor]]", found)


def mask_targets(masks: Tensor, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Training targets of the mask head.

    torchvision's targets sample pixel x at coordinate x, whereas in the projection it covers [x, x + 1):
    a network trained with them shifts every instance by half a pixel up and left.

    Args:
        masks: [K, H, W] uint8, ground-truth instances.
        boxes: [P, 4] float32 xyxy pixels.
        matched: [P] int64 index of each box's instance in masks.
        side: height and width of a target.

    Returns:
        [P, side, side] float32, fraction of each cell that the instance covers.
    """
    coverage = boxes.new_empty(len(boxes), 1, side, side)
    # In chunks: 100 float32 masks of 1024x2048 pixels take 0.8 GB.
    for first in range(0, len(masks), MASKS_AT_ONCE):
        in_chunk = (matched >= first) & (matched < first + MASKS_AT_ONCE)
        rois = torch.cat([(matched[in_chunk] - first)[:, None].to(boxes), boxes[in_chunk]], dim=1)
        chunk = masks[first : first + MASKS_AT_ONCE, None].to(boxes)
        coverage[in_chunk] = roi_align(chunk, rois, side, aligned=True)
    return coverage[:, 0]


def _mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the masks of the matched classes (Mask R-CNN); 0 without any."""
    if not len(labels):
        return 0.0 * logits.float().sum()
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    return F.binary_cross_entropy_with_logits(chosen, targets)


def _rpn_inputs(
    features: dict[str, Tensor], image_size: tuple[int, int]
) -> tuple[ImageList, dict[str, Tensor]]:
    p2 = features["p2"]
    # The RPN only reads the shape of the image tensor, so an expanded scalar suffices.
    images = p2.new_zeros(()).float().expand(p2.shape[0], 3, *image_size)
    levels = {name: features[name].float() for name in RPN_LEVELS}
    return ImageList(images, [image_size] * p2.shape[0]), levels


def _region_proposals(channels: int, config: DetectorConfig) -> RegionProposalNetwork:
    anchors_per_cell = len(config.anchor_scales) * len(config.aspect_ratios)
    head = _Float32RPNHead(channels, anchors_per_cell, conv_depth=config.rpn_convs)
    per_level = config.pre_nms_per_level
    kind = _InclusiveProposals if config.inclusive_boxes else RegionProposalNetwork
    rpn = kind(
        ShiftedAnchors(config),
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": per_level, "testing": per_level},
        post_nms_top_n={"training": config.proposals, "testing": config.proposals},
        nms_thresh=config.rpn_nms,
    )
    rpn.box_similarity = pairwise_iou  # pyright: ignore[reportAttributeAccessIssue]  # box_iou also has fmt
    return rpn


def _roi_heads(channels: int, num_things: int, config: DetectorConfig) -> RoIHeads:
    def pool(size: int) -> nn.Module:
        if config.roi_aligned or config.inclusive_boxes:
            return PyramidRoIPool(size, config)
        torchvision_pool: nn.Module = MultiScaleRoIAlign(
            list(LEVELS),
            size,
            config.roi_samples,
            canonical_scale=config.canonical_size,
            canonical_level=config.canonical_level,
        )
        return torchvision_pool

    mask = config.mask_channels
    mask_norm = nn.BatchNorm2d if config.mask_norm else None
    return RoIHeads(
        box_roi_pool=pool(7),
        box_head=_box_head(channels, config),
        box_predictor=FastRCNNPredictor(config.head_channels, num_things + 1),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.roi_batch,
        positive_fraction=0.25,
        bbox_reg_weights=config.box_weights,
        score_thresh=config.score_threshold,
        nms_thresh=config.nms,
        detections_per_img=config.detections,
        mask_roi_pool=pool(config.mask_size // 2),
        mask_head=MaskRCNNHeads(channels, (mask,) * 4, dilation=1, norm_layer=mask_norm),
        mask_predictor=MaskRCNNPredictor(mask, mask, num_things + 1),
    )


def _box_head(channels: int, config: DetectorConfig) -> nn.Module:
    """[R, channels, 7, 7] -> [R, head_channels]."""
    if not config.box_convs:
        return cast(nn.Module, TwoMLPHead(channels * 7 * 7, config.head_channels))
    head = FastRCNNConvFCHead(
        (channels, 7, 7), [channels] * config.box_convs, [config.head_channels], norm_layer=nn.BatchNorm2d
    )
    return cast(nn.Module, head)


def _stack(rows: list[tuple[Tensor, Tensor, Tensor]], padded: int) -> Detections:
    counts = torch.tensor([len(scores) for _, scores, _ in rows], device=rows[0][1].device)

    def pad(values: Tensor) -> Tensor:
        missing = padded - len(values)
        return torch.cat([values, values.new_zeros(missing, *values.shape[1:])])

    boxes, scores, labels = (
        torch.stack([pad(column) for column in part]) for part in zip(*rows, strict=True)
    )
    return Detections(boxes, scores, labels, counts)
