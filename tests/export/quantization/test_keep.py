# SPDX-License-Identifier: Apache-2.0
"""What layers cost, and which stay in float16."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from imp_trt.artifacts.reading import read_manifest
from imp_trt.cli.export import main
from imp_trt.errors import UsageError
from imp_trt.export import plan
from imp_trt.export.quantization import lowering
from imp_trt.export.quantization.calibration import CalibrationFrames, Histogram, collect_ranges
from imp_trt.export.quantization.keep import fewest, matching
from imp_trt.export.quantization.quantize import quantized_layers
from imp_trt.export.quantization.sensitivity import LayerCost, layer_costs
from imp_trt.export.verification.gates import Gate, gate_of
from tests.support.networks import smooth_frames
from tests.support.typed_models import typed

LAYERS = ["backbone.stages.1.conv", "backbone.stages.10.conv", "mask_head.0", "semantic.fuse"]


@pytest.mark.parametrize("total", [1, 2, 5, 8, 13])
def test_the_fewest_that_pass_are_found(total):
    for right in range(1, total + 2):
        asked = []

        def passes(count, right=right, asked=asked):
            asked.append(count)
            return count >= right

        assert fewest(total, passes) == min(right, total)
        assert len(asked) <= 2 * np.log2(total) + 2


def test_patterns_name_layers():
    assert matching("backbone.stages.1", LAYERS) == LAYERS[:1]
    assert matching("backbone*", LAYERS) == LAYERS[:2]
    assert matching("semantic.fuse, mask_head.?, semantic*", LAYERS) == ["semantic.fuse", "mask_head.0"]
    with pytest.raises(UsageError, match=r"mask_head\.0"):
        matching("mask_heads", LAYERS)


@pytest.mark.slow
def test_a_file_of_int8_has_a_layer_in_int8(weights, tmp_path, calibration_folder, capsys):
    """With all layers in float16 only the name of the file would be that of another precision."""
    arguments = ["--engine", "int8", "--calib", str(calibration_folder), "--target", "onnxruntime"]
    arguments += ["--keep-float16", "*", "--no-verify", "--weights", str(weights), "-o", str(tmp_path), "-q"]
    assert main(arguments) == 2
    assert "at least one quantized layer, got none" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))


def test_the_share_of_a_gate():
    gate = Gate(0.98, 0.9, 1.0)
    assert LayerCost("a", 0.98, 1.0).share(gate) == pytest.approx(1)
    assert LayerCost("a", 1.0, 0.9).share(gate) == pytest.approx(1)
    assert LayerCost("a", 0.99, 1.0).share(Gate(0.98, None, 1.0)) == pytest.approx(0.5)


def wide():
    """Range of a layer that rounds all its inputs to zero."""
    histogram = Histogram()
    histogram.add(torch.full((1000,), 1e6))
    return histogram


@pytest.fixture(scope="module")
def ranges(calibration_folder):
    return collect_ranges(typed("fp32").module, CalibrationFrames(calibration_folder))


@pytest.mark.slow
def test_a_layer_with_a_wrong_range_costs_most(ranges, one_thread):
    module, frames = typed("fp32").module, smooth_frames(2).numpy()
    layers = quantized_layers(typed("fp16").model, "int8")
    assert len(layers) > 10
    worst = layers[2]  # its F1 is 0.17 then
    before = [t.clone() for t in module(torch.from_numpy(frames))]
    costs = layer_costs(
        module, layers[:5], "int8", {**ranges, (worst, 0): wide()}, list(frames), lambda done, total: None
    )
    assert [cost.layer for cost in costs] == layers[:5]
    assert min(costs, key=lambda cost: cost.instances).layer == worst
    assert sorted(cost.instances for cost in costs)[1] > 0.8
    after = module(torch.from_numpy(frames))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the module is as it was"


@pytest.fixture
def export(weights, calibration_folder, tmp_path, monkeypatch, capsys):
    """imp-export of the small network in int8, on two frames; returns exit code and what it wrote."""
    frames = plan.VerificationFrames
    model = typed("fp16").model  # before what makes it is replaced
    monkeypatch.setattr(lowering, "onnx_from_module", lambda module, batch: model)
    monkeypatch.setattr(plan, "VerificationFrames", lambda folder, count: frames(folder, 2))

    def run(*arguments):
        options = ["--engine", "int8", "--target", "onnxruntime", "--calib", str(calibration_folder)]
        options += ["--frames", str(calibration_folder)]
        code = main([*options, "--weights", str(weights), "-o", str(tmp_path), *arguments])
        return code, capsys.readouterr()

    return run


@pytest.mark.slow
def test_a_failed_gate_names_layers_and_auto_keeps_as_few_as_it_needs(export, tmp_path, monkeypatch, ranges):
    names = quantized_layers(typed("fp16").model, "int8")
    worst = names[0]
    monkeypatch.setattr(lowering, "calibrate", lambda *_: {**ranges, (worst, 0): wide()})
    code, said = export("--gate", "instances=0.8")
    assert code == 3
    assert f"the layers that cost most, each alone: {worst} (labels 1" in said.err
    assert f"--keep-float16 {worst}" in said.err
    assert "--gate labels=" in said.err
    assert not (tmp_path / "small.int8.onnx").exists()

    code, said = export("--gate", "instances=0.8", "--keep-float16", "auto", "--json")
    assert code == 0
    found = json.loads(said.out)["verification"]
    assert found["kept_float16"] == [worst]
    assert found["instance_f1"] >= found["gates"]["instance_f1"] == 0.8

    assert export("--gate", "instances=0", "--keep-float16", f"{names[0]},{names[-1]}")[0] == 0
    manifest = read_manifest(tmp_path / "small.int8.onnx")
    assert manifest.verification["kept_float16"] == [names[0], names[-1]]
    assert gate_of(manifest) == Gate(0.98, 0.0, 1.0), "self-tests go by it"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--keep-float16", "mask_heads"], "quantized layers: "),
        (["--keep-float16", "auto", "--no-verify"], "verification, whose gate it obeys"),
        (["--engine", "fp16", "--calib", "."], "takes no calibration"),
    ],
)
def test_mistakes(arguments, text, export):
    code, said = export(*arguments)
    assert code == 2
    assert text in said.err


@pytest.mark.parametrize("text", ["label=1", "labels", "labels=2", "labels=x", "instances=-1", ""])
def test_wrong_gates(text, export):
    with pytest.raises(SystemExit):
        export("--gate", text)
