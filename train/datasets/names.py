# SPDX-License-Identifier: Apache-2.0
"""Names of datasets, for command line help without further imports."""

from __future__ import annotations

NAMES = (
    "scenes, camvid:DIR, ccp:DIR, cityscapes:DIR, modanet:DIR, coco:DIR, coco:JSON,IMAGES, components:DIR, "
    "or a folder whose layout is recognized: COCO JSON (CVAT, Roboflow, Label Studio), color masks (VOC, "
    "CVAT), YOLO segmentation, Cityscapes, ModaNet, or index PNGs with dataset.json"
)
"""Names accepted by ``open_dataset``."""
