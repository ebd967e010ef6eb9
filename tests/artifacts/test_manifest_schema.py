# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema that the package contains describes the manifests that are written and read."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest

from imp_trt.artifacts import EngineInfo, InputContract, Manifest, TensorSpec
from imp_trt.artifacts.artifact import AnyManifest
from imp_trt.artifacts.canvas_part import CanvasPart
from imp_trt.artifacts.json_object import CHECKSUM_FIELD
from imp_trt.artifacts.network_manifest import DTYPES, NetworkManifest
from tests.support import engines, foreign, tiny

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema")

FOLDER = files("imp_trt") / "artifacts"
SCHEMA = json.loads((FOLDER / "manifest.schema.json").read_text())
NETWORK_SCHEMA = json.loads((FOLDER / "network_manifest.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
NETWORK_VALIDATOR = jsonschema.Draft202012Validator(NETWORK_SCHEMA)
WRITTEN_BEFORE = sorted((Path(__file__).parent / "written_before").glob("*.json"))


def written(manifest: AnyManifest) -> dict[str, object]:
    data = json.loads(manifest.to_json())
    data["sha256"] = "0" * 64
    return data


MANIFESTS = {
    "onnx": written(tiny.manifest()),
    "golden": written(tiny.manifest(golden_sha256="1" * 64)),
    "part": written(tiny.manifest(canvas_part=CanvasPart((1, 2, 16, 24), "0" * 64))),
    "engine": written(engines.manifest()),
    "threshold": written(tiny.manifest(score_threshold=0.05)),
    **{path.name: json.loads(path.read_text()) for path in WRITTEN_BEFORE},
}


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(NETWORK_SCHEMA)
    assert WRITTEN_BEFORE


@pytest.mark.parametrize("name", MANIFESTS)
def test_real_manifests_are_valid(name):
    assert [e.message for e in VALIDATOR.iter_errors(MANIFESTS[name])] == []


def test_every_output_is_described():
    name = SCHEMA["properties"]["outputs"]["items"]["properties"]["name"]
    assert re.findall(r"(?:^|\. )(\w+):", name["description"]) == name["enum"]
    assert "labels: class indices" in name["description"]


def test_the_schema_has_the_fields_of_the_classes():
    def names(cls: type) -> set[str]:
        return {f.name for f in fields(cls)}

    properties = SCHEMA["properties"]
    assert set(properties) == names(Manifest) | {CHECKSUM_FIELD}
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
        (("score_threshold",), 1),
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


# ---- third-party networks ----


NETWORKS = {
    "onnx": written(
        foreign.manifest(foreign.plain(), ops={"InstanceMaskProjection": 1}, golden_sha256="1" * 64)
    ),
    "engine": written(foreign.manifest(foreign.plain(), kind="engine", engine=engines.info())),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_manifests_of_networks_are_valid(name):
    assert [e.message for e in NETWORK_VALIDATOR.iter_errors(NETWORKS[name])] == []
    assert not VALIDATOR.is_valid(NETWORKS[name])
    assert not NETWORK_VALIDATOR.is_valid(MANIFESTS[name])


def test_the_schema_of_networks_has_their_fields():
    properties = NETWORK_SCHEMA["properties"]
    names = {f.name for f in fields(NetworkManifest)}
    assert set(NETWORK_SCHEMA["required"]) == names
    assert set(properties) == names | {CHECKSUM_FIELD}
    assert properties["engine"] == SCHEMA["properties"]["engine"]
    assert set(properties["inputs"]["items"]["properties"]["dtype"]["enum"]) == set(DTYPES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "int8"),
        ("inputs", []),
        ("ops", {"InstanceMaskProjection": 0}),
        ("ops", {"Another": 1}),
        ("opset", None),
        ("contract", "images"),
        ("contract_version", 2),
        ("engine", written(engines.manifest())["engine"]),
        ("more", 1),
    ],
)
def test_wrong_values_of_networks_are_found(name, value):
    assert not NETWORK_VALIDATOR.is_valid({**NETWORKS["onnx"], name: value})
