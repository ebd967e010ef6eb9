# SPDX-License-Identifier: Apache-2.0
from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import load_model as load_model
from .checkpoint import read_checkpoint as read_checkpoint
from .checkpoint import save_checkpoint as save_checkpoint
from .coco import coco_config as coco_config
from .coco import coco_mask_rcnn_imp as coco_mask_rcnn_imp
from .config import DetectorConfig as DetectorConfig
from .config import ModelConfig as ModelConfig
from .deploy import DeployModule as DeployModule
from .detector import Detections as Detections
from .network import ImpNetwork as ImpNetwork
from .presets import SYSTEMS as SYSTEMS
from .presets import system as system
from .presets import without_imp as without_imp
