# SPDX-License-Identifier: Apache-2.0
"""ONNX nodes of the custom operators, parsed and built by TensorRT-RTX without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto

from tests.support import rtx_plugins
from tests.support.plugin_models import mask_projection_model, roi_align_model
from tests.support.rtx import run_rtx
from tests.support.stub_packages import needs_rtx

pytestmark = needs_rtx

TYPE_NAMES = {"f32": "FLOAT", "f16": "HALF", "bf16": "BF16"}


def _build(folder: Path, model: ModelProto, plugin: bool) -> dict[str, object]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    result: dict[str, object]
    result, log = run_rtx(rtx_plugins.build, str(path), plugin)
    assert not result["errors"], log
    assert "[E]" not in log, log
    return result


@pytest.mark.parametrize("element", ["f32", "f16", "bf16"])
def test_mask_projection_becomes_a_plugin_layer(element: str, tmp_path: Path) -> None:
    labels = TensorProto.INT64 if element == "f16" else TensorProto.INT32
    result = _build(tmp_path, mask_projection_model(element, labels=labels), plugin=True)
    assert result["plugin_layers"] == 1
    assert result["shape"] == [1, 3, 16, 24]
    assert result["type"] == TYPE_NAMES[element]
    assert result["plan_size"]
    assert result["names_in_plan"] == ["InstanceMaskProjection"]
    assert result["fields_in_plan"] == sorted(rtx_plugins.FIELDS["InstanceMaskProjection"])


@pytest.mark.slow
@pytest.mark.parametrize("element", ["f32", "f16", "bf16"])
def test_roi_align_becomes_a_plugin_layer(element: str, tmp_path: Path) -> None:
    result = _build(tmp_path, roi_align_model(element), plugin=True)
    assert result["plugin_layers"] == 1
    assert result["shape"] == [5, 8, 3, 3]
    assert result["type"] == TYPE_NAMES[element]
    assert result["plan_size"]
    assert result["names_in_plan"] == ["ImpMultilevelRoiAlign"]


@pytest.mark.slow
def test_aligned_boxes_become_a_field(tmp_path: Path) -> None:
    result = _build(tmp_path, roi_align_model("f16", aligned=True), plugin=True)
    assert result["plugin_layers"] == 1
    assert set(rtx_plugins.FIELDS["ImpMultilevelRoiAlign"]) <= set(result["fields_in_plan"])  # type: ignore[call-overload]
    result = _build(tmp_path, roi_align_model("f16", aligned=True), plugin=False)
    assert result["plugin_layers"] == 0


@pytest.mark.slow
def test_adaptive_sampling_becomes_a_plugin_layer_and_nothing_else(tmp_path: Path) -> None:
    """The plugin takes precedence over the body, whose RoiAlign the parser does not know."""
    result = _build(tmp_path, roi_align_model("f16", aligned=True, ratio=0), plugin=True)
    assert result["plugin_layers"] == result["layers"] == 1
    assert result["names_in_plan"] == ["ImpMultilevelRoiAlign"]
    result, _ = run_rtx(rtx_plugins.build, str(tmp_path / "model.onnx"), False)
    assert any("RoiAlign" in error for error in result["errors"])


def test_a_file_without_functions_becomes_a_plugin_layer(tmp_path: Path) -> None:
    result = _build(tmp_path, mask_projection_model("f16", functions=False), plugin=True)
    assert result["plugin_layers"] == result["layers"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("model", [mask_projection_model, roi_align_model])
def test_without_registration_the_function_body_is_used(model: object, tmp_path: Path) -> None:
    result = _build(tmp_path, model("f16"), plugin=False)  # type: ignore[operator]
    assert result["plugin_layers"] == 0
    assert result["plan_size"]
    assert isinstance(result["layers"], int)
    assert result["layers"] > 20
    assert result["fields_in_plan"] == []  # the operator's name is in the tensor names of the body


def test_without_registration_and_functions_parsing_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mask_projection_model("f16", functions=False).SerializeToString())
    result, _ = run_rtx(rtx_plugins.build, str(path), False)
    assert any("InstanceMaskProjection" in error for error in result["errors"])
