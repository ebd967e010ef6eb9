# SPDX-License-Identifier: Apache-2.0
"""Names of data sets, for command line help without further imports."""

from __future__ import annotations

NAMES = (
    "scenes, camvid:DIR, ccp:DIR, cityscapes:DIR, modanet:DIR, coco:DIR, coco:JSON,IMAGES, components:DIR "
    "or a folder with dataset.json"
)
"""Names accepted by ``open_dataset``."""
