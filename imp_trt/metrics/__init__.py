# SPDX-License-Identifier: Apache-2.0
"""What imp-eval measures: class maps, boundaries, instances and panoptic quality, one module each."""

from imp_trt._lazy import attach_stub

__getattr__, __dir__, __all__ = attach_stub(
    __name__,
    __file__,
    deprecated={
        "BoundaryMeasure": "BoundaryMetric",
        "InstanceMeasure": "InstanceMetric",
        "PanopticMeasure": "PanopticMetric",
        "SemanticMeasure": "SemanticMetric",
    },
)
