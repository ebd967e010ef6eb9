# SPDX-License-Identifier: Apache-2.0
"""The manifest as untrusted text: every malformed file is rejected with the field's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imp_trt.artifacts.manifest import MAX_MANIFEST_BYTES, InputContract, Manifest, TensorSpec, parse_manifest
from imp_trt.errors import ArtifactError, InvalidInput
from tests.support import engines, tiny

PATH = Path("tiny.onnx.json")


def good() -> dict[str, Any]:
    return json.loads(tiny.manifest(sha256="0" * 64).to_json())


def parse(data: object) -> Manifest:
    return parse_manifest(json.dumps(data).encode(), PATH)


def test_round_trip() -> None:
    manifest = tiny.manifest(
        batch=3, terms="research only", verification={"labels": 0.9999, "frames": ["a"]}, sha256="a" * 64
    )
    assert parse_manifest(manifest.to_json().encode(), PATH) == manifest


def test_the_score_threshold_of_the_graph_is_optional() -> None:
    manifest = tiny.manifest(score_threshold=0.05, sha256="a" * 64)
    assert parse_manifest(manifest.to_json().encode(), PATH) == manifest
    assert parse(good()).score_threshold is None  # as written before it was recorded
    assert "score_threshold" not in good()


@pytest.mark.parametrize("value", [None, 0, 1, 0.0, 1.0, -0.1, True, "0.05", [0.05]])
def test_an_impossible_score_threshold_is_rejected(value: object) -> None:
    with pytest.raises(ArtifactError, match="field 'score_threshold'"):
        parse({**good(), "score_threshold": value})


def good_engine() -> dict[str, Any]:
    return json.loads(engines.manifest(sha256="0" * 64).to_json())


def test_round_trip_of_an_engine() -> None:
    manifest = engines.manifest(sha256="a" * 64)
    assert parse_manifest(manifest.to_json().encode(), PATH) == manifest
    assert manifest.engine is not None
    assert manifest.engine.plugins == ("InstanceMaskProjection",)
    rtx = engines.manifest(engines.info(backend="tensorrt-rtx", compute_capabilities=("8.6", "12.0")))
    assert parse_manifest(rtx.to_json().encode(), PATH) == rtx


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key)] if isinstance(data, list) else data[key]
        data[int(last) if isinstance(data, list) else last] = value

    return change


MALFORMED = [
    ("kind", "plan", "kind"),
    ("kind", None, "kind"),
    ("kind", ["onnx"], "kind"),
    ("classes", [], "classes"),
    ("classes.names", "road", "classes.names"),
    ("classes.names", [1, 2, 3, 4], "classes.names"),
    ("classes.names", ["a", "a", "b", "c"], "class names"),
    ("classes.names", [], "class names"),
    ("classes.names", ["\ud800", "a", "b", "c"], "lone surrogates"),
    ("classes.names", ["x" * 1001, "a", "b", "c"], "at most 1000 characters"),
    ("classes.things", [2, True], "classes.things"),
    ("classes.things", [2, 9], "things"),
    ("classes.things", [2.0], "classes.things"),
    ("classes.palette", [[0, 0, 0]], "palette"),
    ("classes.palette", [[0, 0], [0, 0], [0, 0], [0, 0]], "classes.palette"),
    ("classes.palette", [[0, 0, 256]] * 4, "palette"),
    ("classes.extra", 1, "classes.extra"),
    ("input", None, "input"),
    ("input.height", 0, "input.height"),
    ("input.height", "64", "input.height"),
    ("input.height", 64.0, "input.height"),
    ("input.width", True, "input.width"),
    ("input.width", 10**9, "input.width"),
    ("input.batch", -1, "input.batch"),
    ("input.color", "rgb", "input.color"),
    ("input.fit", "crop", "input.fit"),
    ("input.pad_value", 256, "input.pad_value"),
    ("input.colour", "bgr", "input.colour"),
    ("detections", -1, "detections"),
    ("mask_size", 0, "mask_size"),
    ("precision", "fp64", "precision"),
    ("target", "", "target"),
    ("target", "rtx; rm -rf ~", "target"),
    ("opset", "18", "opset"),
    ("ops", [], "ops"),
    ("ops.InstanceMaskProjection", "1", "ops.InstanceMaskProjection"),
    ("ops.InstanceMaskProjection.sampling", "cubic", "sampling"),
    ("ops.InstanceMaskProjection.sampling", ["bilinear"], "sampling"),
    ("producer", {"torch": 2}, "producer.torch"),
    ("verification", 3, "verification"),
    ("terms", 1, "terms"),
    ("created", 2026, "created"),
    ("sha256", "xyz", "sha256"),
    ("sha256", "A" * 64, "sha256"),
    ("weights_sha256", 7, "weights_sha256"),
    ("outputs", [], "outputs"),
    ("outputs", {}, "outputs"),
    ("outputs.0.dtype", "int64", "outputs.semantic"),
    ("outputs.1.shape", [1, 5, 4], "outputs.boxes"),
    ("outputs.1.shape", [1, "N", 4], "outputs[1].shape"),
    ("outputs.2", 3, "outputs[2]"),
    ("surprise", 1, "surprise"),
]


@pytest.mark.parametrize(("path", "value", "named"), MALFORMED, ids=[f"{p}={v!r}" for p, v, _ in MALFORMED])
def test_malformed_field_is_named(path: str, value: object, named: str) -> None:
    data = good()
    put(path, value)(data)
    with pytest.raises(ArtifactError, match=r"tiny\.onnx\.json") as caught:
        parse(data)
    assert named in str(caught.value)
    assert "Fix:" in str(caught.value)


MALFORMED_ENGINE = [
    ("engine", None, "engine"),
    ("engine", [], "engine"),
    ("engine.backend", "tensorrt_rtx", "engine.backend"),
    ("engine.backend", ["tensorrt"], "engine.backend"),
    ("engine.version", 10.3, "engine.version"),
    ("engine.version", "", "engine.version"),
    ("engine.version", "10", "engine.version"),
    ("engine.version", "10.3; rm -rf", "engine.version"),
    ("engine.version", "10.3.0.26\n", "engine.version"),
    ("engine.compute_capabilities", "8.7", "engine.compute_capabilities"),
    ("engine.compute_capabilities", [], "engine.compute_capabilities"),
    ("engine.compute_capabilities", ["8.7", "8.7"], "engine.compute_capabilities"),
    ("engine.compute_capabilities", ["8.6", "8.7"], "engine.compute_capabilities"),
    ("engine.compute_capabilities", [8.7], "engine.compute_capabilities"),
    ("engine.compute_capabilities", ["sm_87"], "engine.compute_capabilities"),
    ("engine.compute_capabilities", ["8.7a"], "engine.compute_capabilities"),
    ("engine.platform", "Linux", "engine.platform"),
    ("engine.platform", 7, "engine.platform"),
    ("engine.onnx_sha256", "", "engine.onnx_sha256"),
    ("engine.onnx_sha256", "g" * 64, "engine.onnx_sha256"),
    ("engine.operators", ["InstanceMaskProjection"], "engine.operators"),
    ("engine.operators.InstanceMaskProjection", "kernel", "engine.operators.InstanceMaskProjection"),
    ("engine.operators.InstanceMaskProjection", None, "engine.operators.InstanceMaskProjection"),
    ("engine.hardware_compatibility", "ampere", "engine.hardware_compatibility"),
    ("engine.version_compatible", 1, "engine.version_compatible"),
    ("engine.version_compatible", "false", "engine.version_compatible"),
    ("engine.layer_precisions", [], "engine.layer_precisions"),
    ("engine.layer_precisions.Half", "41", "engine.layer_precisions.Half"),
    ("engine.layer_precisions.Half", -1, "engine.layer_precisions.Half"),
    ("engine.layer_precisions.Half", True, "engine.layer_precisions.Half"),
    ("engine.surprise", 1, "engine.surprise"),
    ("kind", "onnx", "engine"),
]


@pytest.mark.parametrize(
    ("path", "value", "named"), MALFORMED_ENGINE, ids=[f"{p}={v!r}" for p, v, _ in MALFORMED_ENGINE]
)
def test_malformed_engine_field_is_named(path: str, value: object, named: str) -> None:
    data = good_engine()
    put(path, value)(data)
    with pytest.raises(ArtifactError, match=r"tiny\.onnx\.json") as caught:
        parse(data)
    assert named in str(caught.value)
    assert "Fix:" in str(caught.value)


@pytest.mark.parametrize("name", sorted(good_engine()["engine"]))
def test_missing_engine_field_is_named(name: str) -> None:
    data = good_engine()
    del data["engine"][name]
    with pytest.raises(ArtifactError, match=rf"'engine\.{name}'"):
        parse(data)


def test_an_onnx_file_has_no_engine_part() -> None:
    with pytest.raises(ArtifactError, match="nothing for kind 'onnx'"):
        parse(good() | {"engine": good_engine()["engine"]})
    with pytest.raises(InvalidInput, match="'engine'"):
        tiny.manifest(kind="engine")


@pytest.mark.parametrize("name", sorted(good().keys() - {"checksum"}))
def test_missing_field_is_named(name: str) -> None:
    data = good()
    del data[name]
    with pytest.raises(ArtifactError, match=f"'{name}'"):
        parse(data)


@pytest.mark.parametrize(
    ("version", "fix"),
    [(2, "pip install --upgrade"), (99, "pip install --upgrade"), (0, "imp-export"), (-1, "imp-export")],
)
def test_other_schema_versions_name_the_fix(version: int, fix: str) -> None:
    data = {"schema_version": version, "unknown_to_us": True}
    with pytest.raises(ArtifactError, match="schema_version") as caught:
        parse(data)
    assert fix in str(caught.value)


@pytest.mark.parametrize("version", ["1", 1.0, True, None, [1]])
def test_schema_version_of_a_wrong_type(version: object) -> None:
    with pytest.raises(ArtifactError, match="schema_version"):
        parse(good() | {"schema_version": version})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "text"),
        (b"{", "text"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"x"', "object"),
        (b"\xff\xfe{}", "text"),
        (b"[" * 200_000, "text"),
        (b'{"schema_version": 1, "schema_version": 1}', "twice"),
        (b'{"schema_version": 1, "input": {"height": 1, "height": 2}}', "twice"),
        (b'{"schema_version": 1, "benchmark": {"ms": NaN}}', "finite"),
        (b'{"schema_version": 1, "benchmark": {"ms": [1e999]}}', "finite"),
        (b'{"schema_version": ' + b"1" * 5000 + b"}", "text"),
        (b" " * (MAX_MANIFEST_BYTES + 1), "size"),
    ],
)
def test_bad_text(text: bytes, named: str) -> None:
    with pytest.raises(ArtifactError, match=named):
        parse_manifest(text, PATH)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_never_escape_the_typed_error(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_manifest(data, PATH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(sorted(good())), JSON)
def test_any_value_in_any_field_parses_or_is_rejected(name: str, value: object) -> None:
    try:
        manifest = parse(good() | {name: value})
    except ArtifactError:
        return
    assert json.loads(manifest.to_json())[name] == value


@pytest.mark.slow
@settings(deadline=None)
@given(st.sampled_from(sorted(good_engine()["engine"])), JSON)
def test_any_value_in_any_engine_field_parses_or_is_rejected(name: str, value: object) -> None:
    data = good_engine()
    data["engine"][name] = value
    try:
        manifest = parse(data)
    except ArtifactError:
        return
    assert json.loads(manifest.to_json())["engine"][name] == value


def test_messages_stay_short_whatever_the_value() -> None:
    with pytest.raises(ArtifactError) as caught:
        parse(good() | {"kind": "x" * 100_000})
    assert len(str(caught.value)) < 1000


def test_outputs_are_derived() -> None:
    manifest = tiny.manifest(batch=2)
    assert manifest.outputs[0] == TensorSpec("semantic", "uint8", (2, 64, 96))
    assert str(manifest.input.spec) == "frame: uint8[2, 64, 96, 3]"


def test_values_that_json_cannot_hold_are_rejected() -> None:
    with pytest.raises(InvalidInput, match="finite"):
        tiny.manifest(benchmark={"ms": float("nan")}).to_json()
    with pytest.raises(InvalidInput, match="strings"):
        tiny.manifest(verification={"at": object()}).to_json()


def test_a_contract_checks_itself() -> None:
    with pytest.raises(InvalidInput, match=r"input\.height"):
        InputContract(height=-3, width=5)


@pytest.mark.parametrize(
    ("name", "details", "match"),
    [
        ("InstanceMaskProjection", {"version": "1", "samplmng": "rect"}, "samplmng"),
        ("InstanceMaskProjection", {"version": "1", "sampling": "rekt"}, "sampling"),
        ("InstanceMaskProjection", {"version": 1, "sampling": "rect"}, "version"),
        ("InstanceMaskProjection", {"sampling": "rect"}, "version"),
        ("InstanceMaskProjection", {"version": "1", "sampling": ["rect"]}, "sampling"),
        ("ImpMultilevelRoiAlign", {"version": "1", "sampling": "rect"}, "sampling"),
        ("InstanceMaskProjectioN", {"version": "1"}, "another name"),
        ("InstanceMaskProjection", ["version"], "ops"),
    ],
)
def test_operators_are_checked_field_by_field(name: str, details: object, match: str) -> None:
    data = good()
    data["ops"] = {name: details}
    with pytest.raises(ArtifactError, match=match):
        parse(data)


def test_every_flipped_bit_of_the_operators_is_noticed() -> None:
    """Or it says the same; the rule that pastes masks has a default."""
    data = good()
    data["ops"]["InstanceMaskProjection"]["sampling"] = "rect"
    text = json.dumps(data).encode()
    start = text.index(b'"ops"')
    for position in range(start, text.index(b"}}", start)):
        for bit in range(8):
            flipped = bytearray(text)
            flipped[position] ^= 1 << bit
            try:
                assert parse_manifest(bytes(flipped), PATH).sampling == "rect"
            except ArtifactError:
                pass


@pytest.mark.parametrize("depth", [40, 900])
@pytest.mark.parametrize("field", ["verification", "benchmark"])
def test_nested_measurements(depth: int, field: str) -> None:
    text = json.dumps(good() | {field: {"a": 7}}).replace('{"a": 7}', '{"a":' * depth + "7" + "}" * depth)
    with pytest.raises(ArtifactError, match=r"levels of nesting|RecursionError"):
        parse_manifest(text.encode(), PATH)


@pytest.mark.parametrize(
    "change",
    [
        {"input.height": 16384, "input.width": 32768},
        {"input.batch": 4096, "input.height": 8192},
        {"detections": 65536, "mask_size": 1024},
    ],
)
def test_sizes_that_no_machine_has(change: dict[str, int]) -> None:
    data = good()
    for path, value in change.items():
        put(path, value)(data)
    with pytest.raises(ArtifactError, match="at most"):
        parse(data)


@pytest.mark.parametrize("make", [tiny.manifest, engines.manifest], ids=["onnx", "engine"])
def test_no_flipped_bit_passes_unnoticed(
    make: Callable[..., Manifest], caplog: pytest.LogCaptureFixture
) -> None:
    manifest = make(sha256="0" * 64)
    text = manifest.to_json().encode()
    assert parse_manifest(text, PATH) == manifest
    assert not caplog.messages
    told = 0
    for position in range(len(text)):
        flipped = bytearray(text)
        flipped[position] ^= 1 << position % 7
        path = Path(f"{position}.onnx.json")
        caplog.clear()
        try:
            found = parse_manifest(bytes(flipped), path)
        except ArtifactError:
            continue
        if caplog.messages:
            assert f"manifest {path} was changed after it was written" in caplog.text
            told += 1
        else:  # a space that became another white space, or none
            assert found == manifest
    assert told > 50


def test_an_edited_manifest_is_used_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    text = tiny.manifest(sha256="0" * 64).to_json().replace('"sky"', '"Sky"')
    for _ in range(2):
        assert parse_manifest(text.encode(), PATH).classes.names[1] == "Sky"
    assert len(caplog.messages) == 1


def test_manifests_written_before_checksums_are_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    data = good()
    del data["checksum"]
    parse(data)
    assert not caplog.messages
