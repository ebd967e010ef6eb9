# SPDX-License-Identifier: Apache-2.0
from .bootstrap import Interval as Interval
from .bootstrap import bootstrap_differences as bootstrap_differences
from .boundary import BoundaryMetric as BoundaryMetric
from .boundary import BoundaryScores as BoundaryScores
from .instances import InstanceMetric as InstanceMetric
from .instances import InstanceScores as InstanceScores
from .panoptic import PanopticMetric as PanopticMetric
from .panoptic import PanopticScores as PanopticScores
from .semantic import ConfusionMatrix as ConfusionMatrix
from .semantic import SemanticMetric as SemanticMetric
from .semantic import SemanticScores as SemanticScores

BoundaryMeasure = BoundaryMetric  # deprecated
InstanceMeasure = InstanceMetric  # deprecated
PanopticMeasure = PanopticMetric  # deprecated
SemanticMeasure = SemanticMetric  # deprecated
