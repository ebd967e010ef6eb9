# SPDX-License-Identifier: Apache-2.0
"""The sizes that the runtime computes before it loads a file are those that ONNX infers."""

from __future__ import annotations

import time

import onnx
import onnx.inliner
import pytest

from imp_trt.backends.onnx_bounds import Sizes, check_bounds
from imp_trt.backends.onnx_file import parse
from tests.support.typed_models import typed


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_every_shape_of_an_exported_network(precision: str) -> None:
    plain = onnx.inliner.inline_local_functions(typed(precision).model)
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    known = Sizes({}, "x").follow(parse(plain.SerializeToString()))
    produced = {name for node in plain.graph.node for name in node.output}  # value_info has others, too
    compared = 0
    for info in (*inferred.value_info, *inferred.output):
        dims = info.type.tensor_type.shape.dim
        if info.name in produced and all(d.HasField("dim_value") for d in dims):
            assert known[info.name].shape == tuple(d.dim_value for d in dims), info.name
            compared += 1
    assert compared > 500


def test_an_exported_network_is_within_the_bounds() -> None:
    data = typed("fp32").model.SerializeToString()
    start = time.perf_counter()
    check_bounds(data, "x.onnx")
    assert time.perf_counter() - start < 2
