# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema that the package contains describes the manifests that are written and read."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest

from imp_trt.artifacts import EngineInfo, InputContract, Manifest, TensorSpec
from imp_trt.artifacts.canvas_part import CanvasPart
from tests.support import engines, tiny

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")

SCHEMA = json.loads((files("imp_trt") / "artifacts" / "manifest.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
WRITTEN_BEFORE = sorted((Path(__file__).parent / "written_before").glob("*.json"))


def written(manifest: Manifest) -> dict[str, object]:
    data = json.loads(manifest.to_json())
    data["sha256"] = "0" * 64
    return data


MANIFESTS = {
    "onnx": written(tiny.manifest()),
    "golden": written(tiny.manifest(golden_sha256="1" * 64)),
    "part": written(tiny.manifest(canvas_part=CanvasPart((1, 2, 16, 24), "0" * 64))),
    "engine": written(engines.manifest()),
    **{path.name: json.loads(path.read_text()) for path in WRITTEN_BEFORE},
}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert WRITTEN_BEFORE


@pytest.mark.parametrize("name", MANIFESTS)
def test_real_manifests_are_valid(name):
    assert [e.message for e in VALIDATOR.iter_errors(MANIFESTS[name])] == []


def test_the_schema_has_the_fields_of_the_classes():
    def names(cls: type) -> set[str]:
        return {f.name for f in fields(cls)}

    properties = SCHEMA["properties"]
    assert set(properties) == names(Manifest)
    assert set(properties["canvas_part"]["properties"]) == names(CanvasPart)
    assert set(properties["input"]["properties"]) == names(InputContract)
    assert set(properties["engine"]["anyOf"][1]["properties"]) == names(EngineInfo)
    assert set(properties["outputs"]["items"]["properties"]) == names(TensorSpec)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "checkpoint"),
        (("classes", "palette", 0), [1, 2]),
        (("input", "fit"), "crop"),
        (("input", "batch"), 0),
        (("precision",), "fp64"),
        (("ops",), {"InstanceMaskProjection": {"version": "1", "sampled": "bilinear"}}),
        (("sha256",), "xyz"),
        (("engine",), {"backend": "tensorrt"}),
        (("outputs", 0, "dtype"), "int64"),
        (("more",), 1),
    ],
)
def test_wrong_values_are_found(path, value):
    data = json.loads(json.dumps(MANIFESTS["onnx"]))
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert not VALIDATOR.is_valid(data)


def test_an_engine_needs_its_part():
    assert not VALIDATOR.is_valid({**MANIFESTS["onnx"], "kind": "engine"})
    assert not VALIDATOR.is_valid({**MANIFESTS["engine"], "kind": "onnx"})
