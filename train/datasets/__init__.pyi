# SPDX-License-Identifier: Apache-2.0
from .cityscapes import CityscapesDataset as CityscapesDataset
from .coco import CocoDataset as CocoDataset
from .index_png import IndexPngDataset as IndexPngDataset
from .index_png import IndexPngSpec as IndexPngSpec
from .names import NAMES as NAMES
from .registry import open_dataset as open_dataset
