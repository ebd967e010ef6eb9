# SPDX-License-Identifier: Apache-2.0
"""Files with an added projection, built by TensorRT-RTX with the function body and with the plugin."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from imp_trt.export.tensorrt.build_job import BuildJob
from imp_trt.export.tensorrt.builder import build_engine
from imp_trt.export.tensorrt.engine import custom_nodes
from imp_trt.graph import Columns, Prototypes, add_projection
from tests.graph.detectors import Arrays, detections, detector
from tests.support.stub_packages import needs_rtx

pytestmark = needs_rtx


def with_convolution(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A 1 x 1 convolution instead of a node Identity: the builder checks the types of convolutions."""
    (node,) = [n for n in model.graph.node if n.output[0] == name]
    node.CopyFrom(helper.make_node("Conv", [node.input[0], "weights"], [name], name=node.name))
    (value,) = [v for v in model.graph.output if v.name == name]
    channels = value.type.tensor_type.shape.dim[1].dim_value
    weights = np.eye(channels, dtype=np.float32)[..., None, None]
    model.graph.initializer.append(numpy_helper.from_array(weights, "weights"))
    return model


def masks_of_boxes() -> onnx.ModelProto:
    model = with_convolution(detector(detections()), "masks")
    names: dict[str, Any] = {name: name for name in ("boxes", "scores", "labels", "masks")}
    return add_projection(model, **names, things=[3, 0], canvas_size=(12, 16))


def masks_of_prototypes() -> onnx.ModelProto:
    random = np.random.default_rng(0)
    arrays: Arrays = {
        "output0": random.random((1, 6, 11)).astype(np.float32),
        "output1": random.random((1, 5, 6, 8)).astype(np.float32),
    }
    return add_projection(
        with_convolution(detector(arrays, opset=21), "output1"),
        boxes=Columns("output0", 0, 4),
        scores=Columns("output0", 4, 5),
        labels=Columns("output0", 5, 6),
        masks=Columns("output0", 6, 11),
        prototypes=Prototypes("output1", spatial_scale=0.125, cells=9),
        things=4,
        canvas_size=(12, 16),
    )


@pytest.mark.parametrize("make", [masks_of_boxes, masks_of_prototypes], ids=["boxes", "prototypes"])
@pytest.mark.parametrize("plugins", ["none", "plugin"])
def test_tensorrt_builds_the_file(make: Any, plugins: str) -> None:
    model = make()
    options: dict[str, Any] = {} if plugins == "none" else {"plugins": plugins}
    job = BuildJob("tensorrt-rtx", "fp32", operators=custom_nodes(model), **options)
    engine = build_engine(model.SerializeToString(), job)
    assert len(engine.plan) > 10_000
    assert engine.plugins == (None if plugins == "none" else "python")
