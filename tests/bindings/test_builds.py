"""Engines built through NVIDIA's bindings of TensorRT 11; `make bindings` builds more of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.support.bindings_build import write_model
from tests.support.bindings_env import Unavailable
from tests.support.bindings_matrix import Outcome, run_builds, skip_or_fail
from tests.support.stub_packages import needs_rtx

pytestmark = needs_rtx

VERSION, NUMPY = "11.4.0.106", "2"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"), "panoptic-fpn-imp", "fp16")


def build(folder: Path) -> list[Outcome]:
    try:
        return run_builds(VERSION, NUMPY, [folder])
    except Unavailable as error:
        skip_or_fail(error)
        raise


def test_a_network_builds_in_both_forms(model: Path) -> None:
    outcomes = build(model)
    assert [one.case.rpartition("_")[2] for one in outcomes] == ["plugin", "function"]
    assert [one.error for one in outcomes] == [None, None]


def test_another_precision_and_another_operator_are_refused(model: Path, tmp_path: Path) -> None:
    graph = onnx.load(model / "model.onnx")
    for node in graph.graph.node:
        if node.op_type == "InstanceMaskProjection":
            node.op_type = "Unknown"
    onnx.save(graph, tmp_path / "model.onnx")
    (tmp_path / "about.json").write_text((model / "about.json").read_text())
    plugin, function = build(tmp_path)
    for one in (plugin, function):
        assert str(one.error).startswith("BuildError: TensorRT's parser refuses the graph"), one.error
        assert "Unknown" in str(one.error)
    (tmp_path / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    (tmp_path / "about.json").write_text((model / "about.json").read_text().replace("fp16", "bf16"))
    for one in build(tmp_path):
        assert str(one.error).startswith("PrecisionError"), one.error
