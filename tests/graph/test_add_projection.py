# SPDX-License-Identifier: Apache-2.0
"""Projection behind third-party detectors: equal to the NumPy operator, in ONNX Runtime."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imp_trt import ClassTable
from imp_trt.classes import default_palette
from imp_trt.errors import ArtifactError, ExportError, InvalidInput, OutputError
from imp_trt.graph import Columns, Prototypes, add_projection
from imp_trt.ops import instance_mask_projection_numpy
from tests.graph.detectors import Arrays, detections, detector, run

NAMES = {name: name for name in ("boxes", "scores", "labels", "masks")}
SIZE = (12, 16)


def canvas_of(case: Arrays, labels: NDArray[np.generic], planes: int, sampling: Any = "bilinear") -> Any:
    arrays = (case["boxes"], case["scores"], labels, case["masks"])
    return instance_mask_projection_numpy(*arrays, planes, SIZE, 0.25, sampling)


def class_map_of(canvas: NDArray[np.floating], threshold: float = 0.5) -> NDArray[np.generic]:
    """0 where nothing is above the threshold, else 1 + plane."""
    return np.where(canvas.max(1) > threshold, 1 + canvas.argmax(1), 0).astype(np.uint8)


def without_batch(case: Arrays, mask_axis: bool = False) -> Arrays:
    """As torchvision's models give them."""
    arrays = {name: array[0] for name, array in case.items()}
    return arrays | ({"masks": arrays["masks"][:, None]} if mask_axis else {})


@pytest.mark.parametrize("sampling", ["bilinear", "nearest", "rect"])
@pytest.mark.parametrize("dynamic", [(), (0, 1)], ids=["static", "dynamic"])
def test_a_batch(sampling: Any, dynamic: tuple[int, ...]) -> None:
    case = detections(batch=2, count=40)
    model = detector(case, dynamic=dynamic)
    before = model.SerializeToString()
    changed = add_projection(model, **NAMES, things=4, canvas_size=SIZE, sampling=sampling)
    assert model.SerializeToString() == before
    onnx.checker.check_model(changed, full_check=True)
    found = run(changed, case)
    expected = canvas_of(case, case["labels"], 4, sampling)
    assert list(found) == [*NAMES, "canvas", "class_map"]
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-6)
    assert found["class_map"].dtype == np.uint8
    np.testing.assert_array_equal(found["class_map"], class_map_of(found["canvas"]))
    assert len(np.unique(found["class_map"])) == 5
    for name in NAMES:
        np.testing.assert_array_equal(found[name], case[name])


@pytest.mark.parametrize("mask_axis", [False, True])
@pytest.mark.parametrize("dynamic", [(), (0,), (0, 1, 2, 3)], ids=["static", "count", "dynamic"])
def test_detections_of_one_image(mask_axis: bool, dynamic: tuple[int, ...]) -> None:
    """torchvision counts labels from 1: here 1 to 4."""
    case = detections()
    arrays = without_batch(case, mask_axis) | {"labels": case["labels"][0] + 1}
    model = detector(arrays, dynamic=dynamic)
    found = run(add_projection(model, **NAMES, things=range(1, 5), canvas_size=SIZE), arrays)
    np.testing.assert_allclose(found["canvas"], canvas_of(case, case["labels"], 4), atol=1e-6)
    np.testing.assert_array_equal(found["class_map"], class_map_of(found["canvas"]))


def test_no_detections() -> None:
    arrays = without_batch(detections())
    changed = add_projection(detector(arrays, dynamic=(0,)), **NAMES, things=4, canvas_size=SIZE)
    found = run(changed, {name: array[:0] for name, array in arrays.items()})
    assert found["canvas"].shape == (1, 4, *SIZE)
    assert not found["canvas"].any()
    assert not found["class_map"].any()


def test_some_labels_in_another_order() -> None:
    case = detections(count=20)
    changed = add_projection(detector(case), **NAMES, things=[3, 0], canvas_size=SIZE)
    planes = np.array([1, -1, -1, 0])[case["labels"]]
    np.testing.assert_allclose(run(changed, case)["canvas"], canvas_of(case, planes, 2), atol=1e-6)


def test_classes_of_the_class_map() -> None:
    case = detections()
    table = ClassTable(("sky", "car", "road", "cat", "dog", "bus"), (1, 3, 4, 5), default_palette(6))
    options: dict[str, Any] = {"things": 4, "canvas_size": SIZE, "classes": table}
    model = detector(case)
    helper.set_model_props(model, {"author": "somebody"})
    changed = add_projection(model, **NAMES, **options, background=2, threshold=0.3)
    found = run(changed, case)
    plain = class_map_of(found["canvas"], 0.3)
    np.testing.assert_array_equal(found["class_map"], np.array([2, 1, 3, 4, 5])[plain])
    properties = {entry.key: entry.value for entry in changed.metadata_props}
    assert ClassTable.from_dict(json.loads(properties.pop("imp_trt.classes"))) == table
    assert properties == {"author": "somebody", "imp_trt.sampling": "bilinear"}
    with pytest.raises(InvalidInput, match="background"):
        add_projection(model, **NAMES, **options, background=3)
    with pytest.raises(InvalidInput, match="classes"):
        add_projection(model, **NAMES, **{**options, "things": 3})


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 19, 20, 21, 22, 24])
def test_models_of_every_opset(opset: int) -> None:
    case = detections()
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"needs an onnx package with opset {opset}")
    try:
        run(detector(case, opset), case)
    except Exception as error:  # of classes that ONNX Runtime does not export
        if "under development" not in str(error):
            raise
        pytest.skip(f"needs an ONNX Runtime with opset {opset}")
    changed = add_projection(detector(case, opset), **NAMES, things=4, canvas_size=SIZE)
    onnx.checker.check_model(changed, full_check=True)
    found = run(changed, case)["canvas"]
    np.testing.assert_allclose(found, canvas_of(case, case["labels"], 4), atol=1e-6)


FLOATS = (np.float32, np.float16, np.float64)


@pytest.mark.parametrize("masks", FLOATS)
@pytest.mark.parametrize("scores", FLOATS)
@pytest.mark.parametrize("labels", [np.int32, np.uint8, np.float32, np.float16])
def test_types_of_operands(masks: Any, scores: Any, labels: Any) -> None:
    case = detections(count=4)
    for name, kind in (("boxes", scores), ("scores", scores), ("labels", labels), ("masks", masks)):
        case[name] = case[name].astype(kind)
    changed = add_projection(detector(case), **NAMES, things=4, canvas_size=SIZE)
    onnx.checker.check_model(changed, full_check=True)
    found = run(changed, case)
    expected = canvas_of(case, case["labels"].astype(np.int64), 4)
    assert found["canvas"].dtype == (np.float16 if masks == np.float16 else np.float32)
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-3 if masks == np.float16 else 1e-6)
    np.testing.assert_array_equal(found["class_map"], class_map_of(found["canvas"]))


def test_tensors_inside_of_the_graph() -> None:
    """Masks before they are pasted are no output."""
    case = detections()
    model = detector(case)
    (masks,) = [output for output in model.graph.output if output.name == "masks"]
    model.graph.output.remove(masks)
    changed = add_projection(model, **NAMES, things=4, canvas_size=SIZE, sampling="rect")
    found = run(changed, case)
    assert list(found) == ["boxes", "scores", "labels", "canvas", "class_map"]
    expected = canvas_of(case, case["labels"], 4, "rect")
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-6)


def test_constant_masks() -> None:
    """Without masks of its own, a box detector projects filled boxes."""
    case = detections(cells=5)
    model = detector({name: case[name] for name in ("boxes", "scores", "labels")})
    case["masks"] = np.ones_like(case["masks"])
    model.graph.initializer.append(numpy_helper.from_array(case["masks"], "ones"))
    changed = add_projection(model, **{**NAMES, "masks": "ones"}, things=4, canvas_size=SIZE, sampling="rect")
    found = run(changed, {name: case[name] for name in ("boxes", "scores", "labels")})
    expected = canvas_of(case, case["labels"], 4, "rect")
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-6)


def test_two_projections_in_a_model() -> None:
    case = detections()
    once = add_projection(detector(case), **NAMES, things=4, canvas_size=SIZE)
    twice = add_projection(once, **NAMES, things=[2], canvas_size=SIZE, output_names=("second", "second_map"))
    found = run(twice, case)
    assert [f.name for f in twice.functions] == ["InstanceMaskProjection"]
    np.testing.assert_array_equal(found["second"], found["canvas"][:, 2:3])
    with pytest.raises(ExportError, match="one sampling rule"):
        add_projection(
            once, **NAMES, things=4, canvas_size=SIZE, sampling="rect", output_names=("second", "map")
        )


def prototype_masks(case: Arrays, prototypes: NDArray[np.float32], scale: float, cells: int) -> Arrays:
    """The masks of boxes by a loop over their cells: bilinear samples of the combined prototypes."""
    batch, count = case["scores"].shape
    height, width = prototypes.shape[2:]
    masks = np.zeros((batch, count, cells, cells), np.float32)
    for b, n, j, i in np.ndindex(masks.shape):
        x0, y0, x1, y1 = case["boxes"][b, n].astype(np.float64) * scale
        x = np.clip(x0 + (i + 0.5) / cells * (x1 - x0) - 0.5, 0, width - 1)
        y = np.clip(y0 + (j + 0.5) / cells * (y1 - y0) - 0.5, 0, height - 1)
        logits = np.tensordot(case["coefficients"][b, n], prototypes[b], 1)
        left, top = int(x), int(y)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        upper = logits[top, left] * (1 - x + left) + logits[top, right] * (x - left)
        lower = logits[bottom, left] * (1 - x + left) + logits[bottom, right] * (x - left)
        masks[b, n, j, i] = 1 / (1 + np.exp(-(upper * (1 - y + top) + lower * (y - top))))
    return {**case, "masks": masks}


@pytest.mark.parametrize("dynamic", [(), (0, 1, 2, 3)], ids=["static", "dynamic"])
@pytest.mark.parametrize("batch", [1, 2])
def test_prototypes_and_coefficients_in_one_tensor(batch: int, dynamic: tuple[int, ...]) -> None:
    """As in YOLO-seg files with NMS: boxes, score, class and coefficients are columns of a tensor."""
    random = np.random.default_rng(3)
    case = detections(batch=batch, count=6)
    case["coefficients"] = random.normal(size=(batch, 6, 5)).astype(np.float32)
    prototypes = 2 * random.normal(size=(batch, 5, 6, 8)).astype(np.float32)
    columns = [case["boxes"], case["scores"][..., None], case["labels"][..., None], case["coefficients"]]
    arrays: Arrays = {"output0": np.concatenate(columns, -1).astype(np.float32), "output1": prototypes}
    changed = add_projection(
        detector(arrays, dynamic=dynamic),
        boxes=Columns("output0", 0, 4),
        scores=Columns("output0", 4, 5),
        labels=Columns("output0", 5, 6),
        masks=Columns("output0", 6, 11),
        prototypes=Prototypes("output1", spatial_scale=0.125, cells=9),
        things=4,
        canvas_size=SIZE,
    )
    found = run(changed, arrays)
    expected = canvas_of(prototype_masks(case, prototypes, 0.125, 9), case["labels"], 4)
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["class_map"], class_map_of(found["canvas"]))


def test_prototypes_of_one_image() -> None:
    random = np.random.default_rng(4)
    case = detections(count=5)
    case["coefficients"] = random.normal(size=(1, 5, 3)).astype(np.float32)
    prototypes = random.normal(size=(1, 3, 12, 16)).astype(np.float32)
    arrays = {name: array[0] for name, array in case.items() if name != "masks"}
    arrays["prototypes"] = prototypes[0]
    names = {**NAMES, "masks": "coefficients"}
    source = Prototypes("prototypes", cells=6)
    found = run(
        add_projection(detector(arrays), **names, things=4, canvas_size=SIZE, prototypes=source), arrays
    )
    expected = canvas_of(prototype_masks(case, prototypes, 0.25, 6), case["labels"], 4)
    np.testing.assert_allclose(found["canvas"], expected, atol=1e-5)


def test_the_canvas_shows_the_combined_prototypes_where_they_are() -> None:
    """A canvas of the prototypes' size: the same values at the same pixels, within the box."""
    y, x = np.mgrid[:12, :16].astype(np.float32)
    prototypes = np.stack([np.sin(x / 2.5), np.cos(y / 2.0)])[None].astype(np.float32)
    arrays: Arrays = {
        "boxes": np.array([[[8.0, 4.0, 56.0, 44.0]]], np.float32),
        "scores": np.ones((1, 1), np.float32),
        "labels": np.zeros((1, 1), np.int64),
        "coefficients": np.array([[[2.0, 1.5]]], np.float32),
        "prototypes": prototypes,
    }
    names = {**NAMES, "masks": "coefficients"}
    source = Prototypes("prototypes", cells=40)
    changed = add_projection(detector(arrays), **names, things=1, canvas_size=SIZE, prototypes=source)
    canvas = run(changed, arrays)["canvas"][0, 0]
    expected = 1 / (1 + np.exp(-(2.0 * prototypes[0, 0] + 1.5 * prototypes[0, 1])))
    inside = (slice(2, 10), slice(3, 13))
    np.testing.assert_allclose(canvas[inside], expected[inside], atol=0.02)
    shifted = expected[2:10, 4:14]
    assert np.abs(shifted - expected[inside]).max() > 0.1
    assert not canvas[[0, 11]].any()
    assert not canvas[:, [0, 1, 14, 15]].any()


def test_files(tmp_path) -> None:
    case = detections()
    source = tmp_path / "detector.onnx"
    onnx.save(detector(case), source)
    written = add_projection(source, tmp_path / "out" / "imp.onnx", **NAMES, things=4, canvas_size=SIZE)
    assert (tmp_path / "out" / "imp.onnx").read_bytes() == written.SerializeToString()


def test_weights_in_a_file_of_their_own(tmp_path) -> None:
    case = detections(cells=5)
    model = detector({name: case[name] for name in ("boxes", "scores", "labels")})
    model.graph.initializer.append(numpy_helper.from_array(case["masks"], "weights"))
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    names = {**NAMES, "masks": "weights"}
    changed = add_projection(tmp_path / "a.onnx", **names, things=4, canvas_size=SIZE)
    arrays = {name: case[name] for name in ("boxes", "scores", "labels")}
    expected = canvas_of(case, case["labels"], 4)
    np.testing.assert_allclose(run(changed, arrays)["canvas"], expected, atol=1e-6)


def test_more_weights_than_memory(tmp_path, monkeypatch) -> None:
    def too_much(*_):
        raise MemoryError

    onnx.save(detector(detections()), tmp_path / "a.onnx")
    monkeypatch.setattr(onnx, "load_external_data_for_model", too_much)
    with pytest.raises(ArtifactError, match="more data than memory"):
        add_projection(tmp_path / "a.onnx", **NAMES, things=4, canvas_size=SIZE)


PASTED = np.zeros((9, 1, 48, 64), np.float32)
OF_ALL_CLASSES = np.zeros((9, 5, 7, 7), np.float32)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {},
            {"boxes": "box"},
            "boxes: expected the name .* outputs are boxes, scores, labels, masks, got 'box'",
        ),
        ({}, {"boxes": "scores"}, r"boxes \(tensor scores\): expected \[N, 4\]"),
        ({}, {"boxes": "labels"}, r"boxes \(tensor labels\): expected floating point, got \[9\] int64"),
        ({}, {"labels": "boxes"}, r"labels \(tensor boxes\): expected \[N\]"),
        ({}, {"scores": Columns("boxes", 3, 5)}, "columns 3 to 5"),
        ({}, {"scores": Columns("boxes", 2, 4)}, r"scores .*expected \[N\] or \[N, 1\]"),
        ({}, {"masks": "boxes"}, "Prototypes"),
        ({"masks": PASTED}, {}, "before the masks are pasted"),
        ({"masks": OF_ALL_CLASSES}, {}, "each instance's class"),
        ({"masks": np.zeros((8, 7, 7), np.float32)}, {}, r"masks .*expected \[1, 9\] images and instances"),
        ({"masks": np.zeros((9, 7, 7), np.uint8)}, {}, "masks .*expected floating point, got .* uint8"),
        ({"labels": np.zeros(9, bool)}, {}, "labels .*expected integers"),
        ({}, {"things": 0}, "things"),
        ({}, {"things": [1, 1]}, "things"),
        ({}, {"things": 256}, "things"),
        ({}, {"things": [0.5, 1.5]}, "things: expected a number or labels, integers"),
        ({}, {"things": "12"}, "things: expected a number or labels, integers"),
        ({}, {"background": 2}, "background"),
        ({}, {"threshold": float("nan")}, "threshold"),
        ({}, {"canvas_size": (0, 4)}, "canvas_size"),
        ({}, {"sampling": "cubic"}, "sampling"),
        ({}, {"output_names": ("masks", "class_map")}, "output_names"),
        ({}, {"output_names": ("same", "same")}, "output_names"),
        ({}, {"prototypes": Prototypes("masks")}, "coefficients"),
        ({}, {"masks": "boxes", "prototypes": Prototypes("masks")}, r"prototypes .*expected \[4, h, w\]"),
        ({}, {"masks": "boxes", "prototypes": Prototypes("masks", cells=0)}, "cells >= 1"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(tmp_path, changes: Arrays, options: dict[str, Any], message: str) -> None:
    model = detector(without_batch(detections()) | changes)
    output = tmp_path / "out.onnx"
    output.write_bytes(b"before")
    arguments: dict[str, Any] = {**NAMES, "things": 4, "canvas_size": SIZE, **options}
    with pytest.raises(InvalidInput, match=message):
        add_projection(model, output, **arguments)
    assert output.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("sides", [(1, 3, 192, 256), (3, 192, 256), (1, 192, 256, 3)])
def test_a_canvas_of_another_size_than_the_images(
    sides: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Boxes in pixels of 192 x 256 span a quarter of each side at the default scale."""
    model = detector(without_batch(detections()))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, sides)
    model.graph.input.append(image)
    options: dict[str, Any] = {**NAMES, "things": np.arange(4)}
    add_projection(model, **options, canvas_size=(192, 256))
    assert "images of 192x256 pixels span 48x64 of the canvas of 192x256" in caplog.text
    caplog.clear()
    add_projection(model, **options, canvas_size=(48, 64))
    add_projection(model, **options, canvas_size=(192, 256), spatial_scale=1.0)
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [3, 5, 5]))
    add_projection(model, **options, canvas_size=(192, 256))
    assert caplog.text == ""


def test_a_tensor_of_unknown_rank() -> None:
    model = detector(detections())
    model.graph.node.append(helper.make_node("Unknown", ["masks"], ["better"], domain="elsewhere"))
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(InvalidInput, match="whose rank is known"):
        add_projection(model, **{**NAMES, "masks": "better"}, things=4, canvas_size=SIZE)


def test_rect_needs_the_size_of_the_masks() -> None:
    model = detector(detections(), dynamic=(2, 3))
    with pytest.raises(InvalidInput, match="known size"):
        add_projection(model, **NAMES, things=4, canvas_size=SIZE, sampling="rect")


def test_files_that_cannot_be_read(tmp_path) -> None:
    options: dict[str, Any] = {**NAMES, "things": 4, "canvas_size": SIZE}
    (tmp_path / "text.onnx").write_text("not a model\n" * 9)
    (tmp_path / "empty.onnx").write_bytes(b"")
    case = detections()
    model = detector(case)
    model.graph.initializer.append(numpy_helper.from_array(case["masks"], "weights"))
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, location="a.data", size_threshold=0)
    (tmp_path / "a.data").unlink()
    for name in ("text.onnx", "empty.onnx", "a.onnx", "missing.onnx"):
        with pytest.raises(ArtifactError, match=name):
            add_projection(tmp_path / name, tmp_path / "out.onnx", **options)
    assert not (tmp_path / "out.onnx").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        add_projection(detector(case), tmp_path / "file" / "out.onnx", **options)
