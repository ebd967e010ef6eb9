# SPDX-License-Identifier: Apache-2.0
"""Each of the paper's seven systems from a training step to an artifact that does what PyTorch does."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import torch

from imp_trt.artifacts.reading import read_manifest
from imp_trt.data.dataset import Sample
from imp_trt.export import ExportOptions
from imp_trt.export.pipeline import export_model, export_onnx
from imp_trt.models.checkpoint import save_checkpoint
from imp_trt.models.presets import SYSTEMS
from imp_trt.models.semantic import SemanticHead
from imp_trt.segmenter import Segmenter
from imp_trt.train.evaluation import evaluate, possible_metrics
from imp_trt.train.losses import StageLosses
from imp_trt.train.recipes import recipe
from imp_trt.train.targets import Batch
from tests.support.networks import detecting_network, small_config, smooth_frames
from tests.support.stub_packages import needs_rtx
from tests.support.variants import variants


def batch():
    """Two frames, each with one object in front of the sky."""
    semantic = torch.zeros(2, 64, 96, dtype=torch.int64)
    semantic[:, :30] = 1
    masks = torch.zeros(2, 64, 96, dtype=torch.uint8)
    masks[0, 20:50, 10:60] = masks[1, 8:56, 40:80] = 1
    labels, boxes = [1, 2], [(10.0, 20.0, 60.0, 50.0), (40.0, 8.0, 80.0, 56.0)]
    instances = []
    for i in range(2):
        semantic[i][masks[i] > 0] = labels[i] + 1
        instances.append(
            {
                "boxes": torch.tensor([boxes[i]]),
                "labels": torch.tensor([labels[i]]),
                "masks": masks[i : i + 1],
            }
        )
    return Batch(smooth_frames(), semantic, instances)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of the systems after one step each, made when asked for."""
    folder, made = tmp_path_factory.mktemp("systems"), {}

    def get(name):
        if name not in made:
            network = detecting_network(small_config(name, background_score=0.2)).train()
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
            losses = StageLosses(network, recipe("smoke"), 2, None)(batch())
            sum(losses.values()).backward()
            optimizer.step()
            _balance(network.eval())
            path = save_checkpoint(folder / f"{name}.safetensors", network, {})
            made[name] = path, {key: float(value.detach()) for key, value in losses.items()}
        return made[name]

    return get


@torch.no_grad()
def _balance(network):
    """Makes every class win somewhere, which random weights seldom do."""
    if isinstance(network.semantic, SemanticHead):
        features = network.backbone(network.preprocess(smooth_frames(1, seed=4)))
        canvas = torch.zeros(1, 2, 16, 24) if network.config.imp else None
        network.semantic.classify.bias -= network.segment(features, canvas).mean(dim=(0, 2, 3))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    for i, frame in enumerate(smooth_frames(2, seed=9).numpy()):
        cv2.imwrite(str(folder / f"frame{i}.png"), frame)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_training_step_has_the_losses_of_its_parts(trained, name):
    _, losses = trained(name)
    detector = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}
    expected = detector if SYSTEMS[name]["detector"] else set()
    # Straight from the canvas there is nothing to learn for the semantics.
    expected = expected | ({"semantic"} if SYSTEMS[name]["semantic_head"] != "none" else set())
    assert set(losses) == expected
    assert all(np.isfinite(value) and value > 0 for value in losses.values())


@pytest.mark.slow  # an export takes some seconds
@pytest.mark.parametrize("name", variants(SYSTEMS, ("panoptic-fpn-imp", "semantic-fpn")))
def test_the_exported_system_does_what_the_checkpoint_does(trained, images, tmp_path, name):
    weights, _ = trained(name)
    report = export_onnx(weights, tmp_path, ExportOptions(frames=images, frame_count=2))
    manifest = read_manifest(report.path)
    switches = SYSTEMS[name]
    assert manifest.detections == (12 if switches["detector"] else 0)
    projects = {"InstanceMaskProjection"} if switches["imp"] else set()
    pools = {"ImpMultilevelRoiAlign"} if switches["detector"] else set()
    assert set(manifest.ops) == projects | pools
    frame = cv2.resize(smooth_frames(1, seed=4).numpy()[0], (150, 100))
    with (
        Segmenter(weights, "pytorch", device="cpu") as eager,
        Segmenter(report.path, "onnxruntime", threads=1) as exported,
    ):
        expected, found = eager.run(frame), exported.run(frame)
        assert (expected.semantic == found.semantic).mean() > 0.999
        assert len(np.unique(expected.semantic)) > 1, "one class everywhere says nothing"
        a, b = expected.instances, found.instances
        assert len(a) == len(b)
        assert len(a) > 0 if switches["detector"] else len(a) == 0
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0.05)
        for result in (expected, found):
            assert result.plot(frame).shape == frame.shape
        both = exported.run_batch([frame, frame[:50]])
        assert [r.semantic.shape for r in both] == [(100, 150), (50, 150)]


class Answered:
    """Two frames whose true class maps are a segmenter's own answers."""

    name, terms = "answered", None

    def __init__(self, segmenter):
        self.classes = segmenter.classes
        self._frames = smooth_frames(2, seed=4).numpy()
        self._maps = [segmenter.run(frame).semantic for frame in self._frames]

    def __len__(self):
        return len(self._frames)

    def __getitem__(self, index):
        truth = self._maps[index]
        return Sample(self._frames[index], truth, np.zeros(truth.shape, np.int32))


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_scored(trained, name):
    pytest.importorskip("faster_coco_eval", reason="needs faster-coco-eval")
    with Segmenter(trained(name)[0], "pytorch", device="cpu") as segmenter:
        done = evaluate(segmenter.run, Answered(segmenter), possible_metrics(segmenter.manifest))
    assert (done.images, done.semantic.pixel_accuracy) == (2, 1)
    assert done.boundary.bands[0].mean_accuracy == 1
    detector = SYSTEMS[name]["detector"]
    assert [part is not None for part in (done.instances, done.panoptic)] == [detector, detector]


@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param("semantic-p2", "fp32", marks=pytest.mark.exhaustive),
        pytest.param("semantic-fpn", "fp16", marks=pytest.mark.exhaustive),
        ("mask-rcnn-imp", "fp16"),
    ],
)
def test_an_engine_of_a_system_that_lacks_a_part(trained, tmp_path, name, precision):
    # No detections at all, or no semantic head: shapes that the full network never has.
    report = export_model(
        trained(name)[0], tmp_path, ExportOptions(precision=precision, target="tensorrt-rtx", verify=False)
    )
    engine = report.manifest.engine
    assert engine is not None
    assert report.manifest.detections == (12 if SYSTEMS[name]["detector"] else 0)
    assert list(engine.layer_precisions) == [{"fp32": "Float", "fp16": "Half"}[precision]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", variants(["resnet18", "efficientnet_lite0", "efficientnet_lite2"], ["resnet18"])
)
def test_a_real_time_backbone_is_exported(images, tmp_path, backbone):
    weights = save_checkpoint(tmp_path / "real_time.safetensors", detecting_network(lite(backbone)), {})
    report = export_onnx(weights, tmp_path, ExportOptions(frames=images, frame_count=2))
    assert report.manifest.verification["label_agreement"] >= 0.9999
    assert report.manifest.verification["instances"]["reference"] > 0


def lite(backbone="efficientnet_lite0", name="panoptic-fpn-imp", **changes):
    """With two anchor scales, a scaled canvas and the convolution from canvas to logits."""
    config = small_config(name, backbone, **changes)
    if config.imp and config.semantic_head != "none":
        config = replace(config, canvas_scale=6.0, canvas_skip=True)
    detector = replace(config.detector_config, anchor_scales=(1.0, 1.41))
    return replace(config, detector_config=detector)


@pytest.mark.slow
@pytest.mark.parametrize("name", variants(SYSTEMS, ("panoptic-p2-imp",)))
def test_every_system_with_a_lite_backbone_from_a_step_to_an_artifact(images, tmp_path, name):
    network = detecting_network(lite(name=name, background_score=0.2)).train()
    losses = StageLosses(network, recipe("smoke"), 2, None)(batch())
    sum(losses.values()).backward()
    assert all(np.isfinite(float(value.detach())) for value in losses.values())
    assert network.backbone.body.stem[0][0].weight.grad.any()
    _balance(network.eval())
    weights = save_checkpoint(tmp_path / "lite.safetensors", network, {})
    report = export_onnx(weights, tmp_path, ExportOptions(frames=images, frame_count=2))
    frame = smooth_frames(1, seed=4).numpy()[0]
    with (
        Segmenter(weights, "pytorch", device="cpu") as eager,
        Segmenter(report.path, "onnxruntime", threads=1) as exported,
    ):
        expected, found = eager.run(frame), exported.run(frame)
    assert (expected.semantic == found.semantic).mean() > 0.999
    assert len(expected.instances) == len(found.instances)
    np.testing.assert_allclose(expected.instances.scores, found.instances.scores, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", variants(["fp16", "int8"], ["int8"]))
def test_a_lite_backbone_in_lower_precision(images, tmp_path, precision):
    weights = save_checkpoint(tmp_path / "lite.safetensors", detecting_network(lite()), {})
    calibration = images if precision == "int8" else None
    options = ExportOptions(precision=precision, calibration=calibration, verify=False)
    report = export_onnx(weights, tmp_path, options)
    model = onnx.load(report.path, load_external_data=False)
    names = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    depthwise = [n for n in model.graph.node if n.op_type == "Conv" and any(a.i > 1 for a in n.attribute)]
    assert depthwise
    assert bool(names) == (precision == "int8")
    with Segmenter(report.path, "onnxruntime", threads=1) as exported:
        found = exported.run(smooth_frames(1, seed=4).numpy()[0])
    assert found.semantic.shape == (64, 96)
    assert np.isfinite(found.instances.scores).all()


# Each kind of head and detector once: an engine takes ten seconds.
@pytest.mark.slow
@needs_rtx
@pytest.mark.parametrize(
    "name",
    variants(["panoptic-fpn-imp", "panoptic-p2", "mask-rcnn-imp"], ["panoptic-fpn-imp"]),
)
def test_engines_of_systems_with_a_lite_backbone(tmp_path, name):
    weights = save_checkpoint(tmp_path / "lite.safetensors", detecting_network(lite(name=name)), {})
    options = ExportOptions(precision="fp16", target="tensorrt-rtx", verify=False)
    engine = export_model(weights, tmp_path, options).manifest.engine
    assert engine is not None
    assert list(engine.layer_precisions) == ["Half"]
