# SPDX-License-Identifier: Apache-2.0
"""The exported file: what is in it, and that ONNX Runtime computes what the network does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import imp_trt
import imp_trt.export
from imp_trt.errors import ExportError, InvalidInput
from imp_trt.export.onnx.from_model import onnx_from_module, operators_of
from imp_trt.export.onnx.graph_checks import graph_problems
from imp_trt.models.deploy import DeployModule
from imp_trt.models.network import ImpNetwork
from imp_trt.models.outputs import OUTPUT_NAMES
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.parity import assert_same
from tests.support.typed_models import ITERATIONS

pytestmark = pytest.mark.slow


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(opened, frames):
    return dict(zip(OUTPUT_NAMES, opened.run(list(OUTPUT_NAMES), {"frame": frames.numpy()}), strict=True))


def test_onnx_runtime_computes_what_the_eager_network_does(network, model):
    opened = session(model)
    for seed in range(4):
        frames = smooth_frames(1, seed=seed)
        assert_same(network.forward_frames(frames), run(opened, frames), 2)
    first, again = (run(opened, smooth_frames(1)) for _ in range(2))
    assert all((first[name] == again[name]).all() for name in OUTPUT_NAMES), "the same bits every time"


@pytest.mark.slow
def test_a_file_for_batches():
    network = detecting_network(small_config("panoptic-p2-imp", sampling="nearest"))
    model = onnx_from_module(DeployModule(network, nms_iterations=12), batch=2)
    assert_same(network.forward_frames(smooth_frames()), run(session(model), smooth_frames()), 4)


def test_inputs_outputs_and_opset(model):
    def spec(value):
        kind = value.type.tensor_type
        return (
            value.name,
            onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
            [d.dim_value for d in kind.shape.dim],
        )

    assert [spec(v) for v in model.graph.input] == [("frame", "uint8", [1, 64, 96, 3])]
    assert [spec(v) for v in model.graph.output] == [
        ("semantic", "uint8", [1, 64, 96]),
        ("boxes", "float32", [1, 12, 4]),
        ("scores", "float32", [1, 12]),
        ("labels", "int32", [1, 12]),
        ("masks", "float32", [1, 12, 28, 28]),
        ("num_detections", "int32", [1]),
    ]
    assert {o.domain: o.version for o in model.opset_import} == {"": 18, "imp_trt": 1}


def test_custom_operators_are_nodes_with_bodies(model):
    assert graph_problems(model) == []
    custom = Counter(node.op_type for node in model.graph.node if node.domain == "imp_trt")
    assert custom == {"ImpMultilevelRoiAlign": 2, "InstanceMaskProjection": 1}
    assert sorted(f.name for f in model.functions) == sorted(custom)
    assert operators_of(model) == {
        "ImpMultilevelRoiAlign": {"version": "1"},
        "InstanceMaskProjection": {"version": "1", "sampling": "bilinear"},
    }


def test_the_mask_head_has_no_deconvolution_and_nms_is_unrolled(model):
    used = Counter(node.op_type for node in model.graph.node)
    assert used["DepthToSpace"] == 1
    assert used["MatMul"] >= 2 * ITERATIONS
    assert not {"ConvTranspose", "BatchNormalization", "Loop", "NonZero", "NonMaxSuppression"} & set(used)


def test_nothing_of_the_machine_is_in_the_file(model):
    payload = model.SerializeToString()
    for text in (str(Path(imp_trt.__file__).parent), "site-packages", "stack_trace"):
        assert text.encode() not in payload
    assert model.producer_name == "imp_trt"
    assert {p.key for p in model.metadata_props} == {"imp_trt.classes", "imp_trt.sampling"}


@pytest.mark.slow
def test_a_network_without_detector_gives_the_same_bytes_twice():
    torch.manual_seed(0)
    network = ImpNetwork(small_config("semantic-fpn", head_norm="group")).eval()
    first, again = (onnx_from_module(DeployModule(network)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == again.SerializeToString(deterministic=True)
    assert not first.functions
    assert not [i.name for i in first.graph.initializer if 0 in i.dims], "TensorRT's parser warns about them"
    assert "GroupNormalization" not in {node.op_type for node in first.graph.node}
    assert_same(network.forward_frames(smooth_frames(1)), run(session(first), smooth_frames(1)), 0)


def test_a_batch_below_one_is_rejected(module):
    with pytest.raises(InvalidInput, match="batch"):
        onnx_from_module(module, batch=0)


def test_what_pytorch_cannot_export_is_named(module):
    class Broken(DeployModule):
        def forward(self, frames):
            raise RuntimeError("unsupported layer")

    broken = Broken.__new__(Broken)
    broken.__dict__ = module.__dict__
    with pytest.raises(ExportError, match=r"PyTorch cannot export the network.*unsupported layer"):
        onnx_from_module(broken)


def test_what_the_exporter_prints_stays_off_stdout(monkeypatch, capsys):
    # onnxscript 0.6 counted its rewrite rules there, in front of the JSON of --json.
    def exporter(*args, **kwargs):
        print("Applied 77 of general pattern rewrite rules.")
        raise RuntimeError("enough")

    monkeypatch.setattr(torch.onnx, "export", exporter)
    with pytest.raises(ExportError, match="enough"):
        imp_trt.export.onnx_with_operators(torch.nn.Identity(), (torch.zeros(1),), ["x"], ["y"])
    printed = capsys.readouterr()
    assert (printed.out, "Applied 77" in printed.err) == ("", True)
