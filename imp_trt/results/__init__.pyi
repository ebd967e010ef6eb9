# SPDX-License-Identifier: Apache-2.0
from .coco import coco_results as coco_results
from .disagreement import disagreement_map as disagreement_map
from .drawing import class_colors as class_colors
from .drawing import color_map as color_map
from .drawing import draw_panoptic as draw_panoptic
from .drawing import draw_result as draw_result
from .image_grid import make_grid as make_grid
from .instances import Instances as Instances
from .panoptic import Panoptic as Panoptic
from .panoptic import Segment as Segment
from .panoptic import fuse_panoptic as fuse_panoptic
from .result import DEFAULT_SCORE_THRESHOLD as DEFAULT_SCORE_THRESHOLD
from .result import SegmentationResult as SegmentationResult

DRAWN_SCORE = DEFAULT_SCORE_THRESHOLD  # deprecated
sheet = make_grid  # deprecated
