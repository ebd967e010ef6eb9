# SPDX-License-Identifier: Apache-2.0
"""The paper's own numbers (Fu, Berg and Berg, ICCV 2019), for comparison with the measured ones.

In percent; None if the paper has none. They are from other data, with pretrained weights and long schedules:
only the direction and the size of the gains can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's tables, ResNet-50.

    Attributes:
        box_ap, mask_ap, miou, macc: percent.
    """

    box_ap: float | None
    mask_ap: float | None
    miou: float
    macc: float | None = None


VCP: dict[str, PaperRow] = {
    "mask-rcnn-imp": PaperRow(29.9, 26.7, 43.91, 56.93),
    "semantic-p2": PaperRow(None, None, 37.00, 48.57),
    "semantic-fpn": PaperRow(None, None, 42.66, 55.19),
    "panoptic-p2": PaperRow(29.8, 26.4, 37.14, 48.82),
    "panoptic-p2-imp": PaperRow(30.6, 26.8, 46.59, 59.24),
    "panoptic-fpn": PaperRow(29.6, 26.7, 45.01, 57.08),
    "panoptic-fpn-imp": PaperRow(30.4, 26.8, 47.03, 61.52),
}
"""Table 1: 25 kinds of clothing, skin, hair and background; 5,493 training and 500 validation images."""

MODANET: dict[str, PaperRow] = {
    "mask-rcnn-imp": PaperRow(57.2, 55.5, 66.23),
    "semantic-p2": PaperRow(None, None, 64.60),
    "panoptic-p2": PaperRow(57.2, 55.5, 65.93),
    "panoptic-p2-imp": PaperRow(58.0, 55.9, 69.65),
    "panoptic-fpn-imp": PaperRow(57.8, 55.6, 71.41),
}
"""ModaNet: the mean of 13 kinds of clothing, without background (Table 2 prints 71.1 for the last row).

imp-eval's mIoU counts the background too, which adds about 2 points; its mIoU of things is the comparable
one.
"""


@dataclass(frozen=True)
class PaperGain:
    """What IMP adds to a system in the paper, in points.

    Attributes:
        where: data and table.
        pair: "P2" or "FPN".
        miou: gain of the mean over all classes.
        things, stuff: of the mean over these classes; None if the paper has no such split.
        macc: gain of the mean accuracy.
    """

    where: str
    pair: str
    miou: float
    things: float | None = None
    stuff: float | None = None
    macc: float | None = None


GAINS = (
    PaperGain("VCP, Table 1", "FPN", 2.02, macc=4.44),
    PaperGain("VCP, Table 1", "P2", 9.45, macc=10.42),
    PaperGain("ModaNet", "P2", 3.72),
    PaperGain("Cityscapes, Table 4, no augmentation", "FPN", 1.35, things=3.36, stuff=-0.12),
    PaperGain("Cityscapes, Table 4, with augmentation", "FPN", 1.51, things=4.19, stuff=-0.44),
)
"""Differences of the paper's rows; Cityscapes' means are recomputed from the classes in Table 4."""

REMARKS = (
    "Cityscapes: the classes that gain are rider, truck, bus, train and motorcycle; stuff as a whole loses a "
    "little (wall loses 6.7 points in the run with augmentation).",
    'Time: "adding IMP only costs ~1-2 ms" (section 4.4; the hardware is not stated there).',
)
