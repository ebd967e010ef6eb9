"""The data sets that commands open by name, one module per format.

``open_dataset`` is fetched on first use: importing this package loads neither cv2 nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imp_trt.train.datasets.registry import open_dataset as open_dataset

__all__ = ["NAMES", "open_dataset"]

NAMES = (
    "scenes, camvid:DIR, ccp:DIR, cityscapes:DIR, modanet:DIR, coco:DIR, coco:JSON,IMAGES, components:DIR "
    "or a folder with dataset.json"
)
"""The names that ``open_dataset`` knows, for the help of commands."""


def __getattr__(name: str) -> Any:
    if name == "open_dataset":
        from imp_trt.train.datasets.registry import open_dataset

        return open_dataset
    raise AttributeError(f"module 'imp_trt.train.datasets' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
