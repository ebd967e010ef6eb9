# SPDX-License-Identifier: Apache-2.0
"""The manifest of a third-party network as untrusted text, and the arrays next to it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.artifacts.manifest import TensorSpec, parse_manifest
from imp_trt.artifacts.network_manifest import NetworkManifest, parse_network_manifest
from imp_trt.artifacts.npz import read_arrays
from imp_trt.artifacts.reading import read_any_manifest, read_artifact, read_manifest, read_network
from imp_trt.artifacts.writing import write_artifact
from imp_trt.errors import ArtifactError, InvalidInput
from tests.support import engines, foreign, tiny

PATH = Path("yours.onnx.json")


def good(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(foreign.manifest(foreign.plain(), sha256="0" * 64).to_json())
    return data | changes


def parse(data: object) -> NetworkManifest:
    return parse_network_manifest(json.dumps(data).encode(), PATH)


def test_round_trip() -> None:
    manifest = foreign.manifest(
        foreign.projecting(),
        kind="engine",
        precision="fp16",
        engine=engines.info(),
        verification={"outputs": {"logits": {"agreeing": 0.999}}},
        sha256="a" * 64,
        golden_sha256="b" * 64,
    )
    assert manifest.ops == {"InstanceMaskProjection": 1}
    assert parse_network_manifest(manifest.to_json().encode(), PATH) == manifest


def put(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data[int(key)] if isinstance(data, list) else data[key]
        data[int(last) if isinstance(data, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("kind", "plan", "kind"),
        ("precision", "int8", "precision"),
        ("contract", "frames", "contract"),
        ("contract_version", True, "contract_version"),
        ("contract_version", 0, "contract_version"),
        ("inputs", [], "inputs"),
        ("inputs", {}, "inputs"),
        ("inputs.0", "images", r"inputs\[0\]"),
        ("inputs.0.name", "", r"inputs\[0\]\.name"),
        ("inputs.0.name", "a\nb", r"inputs\[0\]\.name"),
        ("inputs.0.dtype", "float64", r"inputs\[0\]\.dtype"),
        ("inputs.0.dtype", 1, r"inputs\[0\].dtype"),
        ("inputs.0.shape", [-1, 3], r"inputs\[0\]\.shape"),
        ("inputs.0.shape", [1.0, 3], r"inputs\[0\]\.shape"),
        ("inputs.0.shape", [1] * 9, "at most 8"),
        ("inputs.0.shape", [1 << 16, 1 << 16], "bytes"),
        ("outputs.1", {"name": "logits", "dtype": "uint8", "shape": []}, "each name once"),
        ("outputs", [{"name": str(i), "dtype": "uint8", "shape": []} for i in range(257)], "256"),
        ("ops", {"Other": 1}, "ops"),
        ("ops", {"InstanceMaskProjection": 0}, r"ops\.InstanceMaskProjection"),
        ("ops", [], "ops"),
        ("target", "a b", "target"),
        ("opset", 0, "opset"),
        ("sha256", "0", "sha256"),
        ("source_sha256", 1, "source_sha256"),
        ("golden_sha256", None, "golden_sha256"),
        ("producer", {"imp_trt": 1}, "producer"),
        ("created", 1, "created"),
        ("engine", {}, "engine"),
        ("extra", 1, "extra"),
    ],
)
def test_malformed_fields_are_named(path: str, value: object, named: str) -> None:
    data = good()
    put(path, value)(data)
    with pytest.raises(ArtifactError, match=named) as caught:
        parse(data)
    assert "yours.onnx.json" in str(caught.value)


@pytest.mark.parametrize("name", sorted(good().keys() - {"checksum"}))
def test_missing_fields_are_named(name: str) -> None:
    data = good()
    del data[name]
    with pytest.raises(ArtifactError, match=name):
        parse(data)


def test_later_versions_are_reported_apart() -> None:
    with pytest.raises(ArtifactError, match=r"expected 1, got 2.*upgrade imp-trt"):
        parse(good(contract_version=2, unknown="field"))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"kind": 1, "kind": 2}', b"\xff", b"[" * 100_000])
def test_no_json_object(text: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_network_manifest(text, PATH)


def test_values_that_json_cannot_hold() -> None:
    with pytest.raises(InvalidInput, match="finite"):
        foreign.manifest(foreign.plain(), verification={"x": float("nan")}).to_json()
    with pytest.raises(InvalidInput, match="engine"):
        foreign.manifest(foreign.plain(), kind="engine")


def test_neither_kind_is_read_as_the_other(tmp_path: Path) -> None:
    yours, ours = foreign.artifact(tmp_path, foreign.plain()), tiny.artifact(tmp_path)
    assert isinstance(read_any_manifest(yours), NetworkManifest)
    assert read_any_manifest(ours) == read_manifest(ours)
    for read in (read_artifact, read_manifest):
        with pytest.raises(ArtifactError, match=r"imp_trt\.Engine"):
            read(yours)
    with pytest.raises(ArtifactError, match=r"imp_trt\.Segmenter"):
        read_network(ours)
    with pytest.raises(ArtifactError, match="contract"):
        parse_manifest((json.dumps(good())).encode(), PATH)


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = foreign.artifact(tmp_path, foreign.plain())
    assert read_network(path).payload == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="damaged"):
        read_network(path)


def test_a_written_pair_is_replaced_together(tmp_path: Path) -> None:
    path = foreign.artifact(tmp_path, foreign.plain())
    other = foreign.plain(classes=5)
    write_artifact(path, other.SerializeToString(deterministic=True), foreign.manifest(other), b"golden")
    assert read_network(path).manifest.outputs[0].shape[1] == 5
    assert (tmp_path / "yours.fp32.golden.npz").read_bytes() == b"golden"


# ---- arrays ----


SPECS = {"a": TensorSpec("x", "float32", (2, 3)), "b": TensorSpec("y", "bool", (0, 4))}


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_arrays() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    for order in "CF":
        found = read_arrays(packed(a=np.asarray(a, order=order), b=np.zeros((0, 4), bool)), SPECS, "call")
        assert np.array_equal(found["a"], a)
        assert found["a"].flags.c_contiguous
        assert (found["b"].dtype, found["b"].shape) == (np.dtype(bool), (0, 4))


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.zeros((2, 3), np.float32)},
        {"a": np.zeros((2, 3), np.float32), "b": np.zeros((0, 4), bool), "c": np.zeros(1)},
        {"a": np.zeros((2, 3)), "b": np.zeros((0, 4), bool)},
        {"a": np.zeros((3, 2), np.float32), "b": np.zeros((0, 4), bool)},
        {"a": np.array([None] * 6), "b": np.zeros((0, 4), bool)},
    ],
)
def test_other_arrays(arrays: Any) -> None:
    with pytest.raises(ArtifactError, match="call"):
        read_arrays(packed(**arrays), SPECS, "call")


def test_a_file_that_unpacks_to_more_is_not_unpacked() -> None:
    """64 MB of zeros, where 24 bytes are expected."""
    data = packed(a=np.zeros((4096, 4096), np.float32), b=np.zeros((0, 4), bool))
    assert len(data) < 100_000
    with pytest.raises(ArtifactError, match="bytes"):
        read_arrays(data, SPECS, "call")
