# SPDX-License-Identifier: Apache-2.0
"""Engines built through NVIDIA's bindings of TensorRT 11; `make bindings` builds more of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto

from imp_trt.export.onnx.float16 import to_float16
from tests.support import foreign
from tests.support.bindings_build import write, write_model
from tests.support.bindings_env import Unavailable
from tests.support.bindings_matrix import Outcome, run_builds, skip_or_fail
from tests.support.small_graphs import convolution
from tests.support.stub_packages import needs_rtx

pytestmark = needs_rtx

VERSION, NUMPY = "11.4.0.106", "2"


def build(*folders: Path) -> list[Outcome]:
    try:
        return run_builds(VERSION, NUMPY, folders)
    except Unavailable as error:
        skip_or_fail(error)


@pytest.mark.slow
def test_a_network_builds_in_both_forms(tmp_path: Path) -> None:
    outcomes = build(write_model(tmp_path, "panoptic-fpn-imp", "fp16"))
    assert [one.case.rpartition("_")[2] for one in outcomes] == ["plugin", "function"]
    assert [one.error for one in outcomes] == [None, None]


@pytest.mark.slow
def test_networks_of_another_make(tmp_path: Path) -> None:
    projecting = to_float16(foreign.projecting())
    outcomes = build(
        write(tmp_path / "projecting", projecting, "fp16", foreign=True),
        write(tmp_path / "plain", foreign.plain(), "fp32", foreign=True),
    )
    assert [one.error for one in outcomes] == [None] * 4


@pytest.mark.slow
def test_every_option_is_taken(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    outcomes = build(
        write(tmp_path / "plain", convolution("fp16"), "fp16", workspace=1 << 30, timing_cache=str(cache)),
        write(tmp_path / "level", convolution("fp16"), "fp16", optimization_level=1),
        write(tmp_path / "any", convolution("fp16"), "fp16", hardware_compatibility="ampere_plus"),
        write(
            tmp_path / "same", convolution("fp16"), "fp16", hardware_compatibility="same_compute_capability"
        ),
    )
    assert [one.error for one in outcomes] == [None] * 8
    assert cache.stat().st_size > 0


@pytest.mark.slow
def test_what_cannot_be_built_is_rejected(tmp_path: Path) -> None:
    unknown = ModelProto()
    unknown.CopyFrom(convolution("fp16"))
    unknown.graph.node[0].op_type = "Unknown"
    outcomes = build(
        write(tmp_path / "operator", unknown, "fp16"),
        write(tmp_path / "precision", convolution("fp16"), "bf16"),
        write(tmp_path / "lean", convolution("fp16"), "fp16", version_compatible=True),
    )
    operator, precision, lean = (str(one.error) for one in outcomes[::2])
    assert operator.startswith("BuildError: TensorRT's parser rejects the graph")
    assert "(Unknown)" in operator
    assert precision.startswith("PrecisionError")
    assert lean.startswith("BuildError")
    assert "libnvinfer_lean" in lean, "TensorRT-RTX has no such library; the flag has arrived"


def test_older_bindings_are_not_tried() -> None:
    with pytest.raises(AssertionError, match="10"):
        run_builds("10.16.1.11", NUMPY, [])
