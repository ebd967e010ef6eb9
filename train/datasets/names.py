"""The names of data sets, for the help of commands; nothing else is imported with them."""

from __future__ import annotations

NAMES = (
    "scenes, camvid:DIR, ccp:DIR, cityscapes:DIR, modanet:DIR, coco:DIR, coco:JSON,IMAGES, components:DIR "
    "or a folder with dataset.json"
)
"""The names that ``open_dataset`` knows, for the help of commands."""
