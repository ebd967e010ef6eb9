# SPDX-License-Identifier: Apache-2.0
from .boundary import BoundaryMeasure as BoundaryMeasure
from .boundary import BoundaryScores as BoundaryScores
from .instances import InstanceMeasure as InstanceMeasure
from .instances import InstanceScores as InstanceScores
from .panoptic import PanopticMeasure as PanopticMeasure
from .panoptic import PanopticScores as PanopticScores
from .semantic import ConfusionMatrix as ConfusionMatrix
from .semantic import SemanticMeasure as SemanticMeasure
from .semantic import SemanticScores as SemanticScores
