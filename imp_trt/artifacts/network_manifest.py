# SPDX-License-Identifier: Apache-2.0
"""The manifest of a third-party network: arrays in, arrays out, nothing said of what they mean.

It has the field ``contract``, which no manifest of a segmentation network has: neither is mistaken for the
other. The text is untrusted input, parsed as strictly as :mod:`imp_trt.artifacts.manifest` does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from imp_trt.artifacts import fields as check
from imp_trt.artifacts.engine_info import EngineInfo, parse_engine_info
from imp_trt.artifacts.json_object import bad_field, object_text, read_object
from imp_trt.artifacts.manifest import (
    CONTRACT_FIELD,
    EXPORT_AGAIN,
    IMP_OP,
    ROI_ALIGN_OP,
    TARGET,
)
from imp_trt.artifacts.tensor_spec import TensorSpec, parse_spec
from imp_trt.errors import ArtifactError, InvalidInput

CONTRACT = "arrays"
"""Named arrays of fixed shapes and types."""

CONTRACT_VERSION = 1

NetworkKind = Literal["onnx", "engine"]
NetworkPrecision = Literal["fp32", "fp16"]

DTYPES = ("float32", "float16", "int8", "int32", "int64", "uint8", "bool")
"""Types of inputs and outputs, as NumPy names them."""

MAX_TENSORS = 256
"""Limit of the inputs, and of the outputs."""

MAX_BYTES = 1 << 32
"""Limit of the inputs and outputs of one call."""

RUNS = {"outputs": "", "outputs_rounded": " with float16 rounding"}
"""Entries of ``verification`` with the agreement of the outputs, and what reports say of them."""

_MAX_RANK = 8
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")
_OPS = (IMP_OP, ROI_ALIGN_OP)


@dataclass(frozen=True)
class NetworkManifest:
    """Contents of ``<artifact>.json`` for a third-party network.

    Attributes:
        kind: "onnx" or "engine".
        inputs, outputs: tensors of the graph, with fixed shapes.
        precision: fp32, or fp16: layers in float16; inputs and outputs keep the types of the source.
        target: the backend or device profile the file was exported for.
        ops: this package's operators in the file -> number of nodes.
        source_sha256: hash of the ONNX file that was exported.
        opset: ONNX opset of the graph.
        producer: package name -> version of the packages that wrote the file.
        verification, benchmark: measurements, as JSON data.
        engine: what built the engine and where it runs; only for kind "engine".
        created: UTC time of writing, ISO 8601; write_artifact fills it in.
        sha256: hash of the artifact's bytes; write_artifact fills it in.
        golden_sha256: hash of the golden arrays, or empty without them; write_artifact fills it in.
        contract, contract_version: what the manifest promises, and the version of this layout.

    Raises:
        InvalidInput: a field has the wrong type or is out of its range.
    """

    kind: NetworkKind
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: NetworkPrecision
    target: str
    ops: Mapping[str, int]
    source_sha256: str
    opset: int
    producer: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, object] = field(default_factory=dict)
    benchmark: Mapping[str, object] = field(default_factory=dict)
    engine: EngineInfo | None = None
    created: str = ""
    sha256: str = ""
    golden_sha256: str = ""
    contract: str = CONTRACT
    contract_version: int = CONTRACT_VERSION

    def __post_init__(self) -> None:
        check.choice(CONTRACT_FIELD, self.contract, (CONTRACT,))
        check.integer("contract_version", self.contract_version, CONTRACT_VERSION, CONTRACT_VERSION)
        check.choice("kind", self.kind, ("onnx", "engine"))
        check.choice("precision", self.precision, ("fp32", "fp16"))
        check.matches("target", self.target, TARGET, 'a name such as "jetson-orin"')
        check.integer("opset", self.opset, 1, 1000)
        for name in ("sha256", "source_sha256", "golden_sha256"):
            check.digest(name, getattr(self, name))
        for name in ("ops", "producer", "verification", "benchmark"):
            check.mapping(name, getattr(self, name))
        for name, count in self.ops.items():
            check.choice("ops", name, _OPS)
            check.integer(f"ops.{name}", count, 1, 1 << 20)
        for name, version in self.producer.items():
            check.text(f"producer.{name[:80]}", version)
        if not isinstance(self.created, str):
            raise InvalidInput("manifest field 'created'", expected="a string", got=repr(self.created))
        _check_tensors("inputs", self.inputs)
        _check_tensors("outputs", self.outputs)
        size = sum(spec_bytes(spec) for spec in (*self.inputs, *self.outputs))
        if size > MAX_BYTES:
            raise InvalidInput(
                "manifest fields 'inputs' and 'outputs'",
                expected=f"at most {MAX_BYTES:,} bytes",
                got=f"{size:,}",
            )
        if (self.kind == "engine") != isinstance(self.engine, EngineInfo):
            expected = "an object" if self.kind == "engine" else "nothing for kind 'onnx'"
            raise InvalidInput("manifest field 'engine'", expected=expected, got=check.short(self.engine))

    def to_dict(self) -> dict[str, object]:
        """JSON data."""
        return asdict(self)

    def to_json(self) -> str:
        """Text of the manifest file; raises InvalidInput for values that JSON does not support."""
        return object_text(self.to_dict())


def spec_bytes(spec: TensorSpec) -> int:
    """Size of a tensor in bytes."""
    sizes = {"float32": 4, "int32": 4, "int64": 8, "float16": 2}
    return math.prod(spec.shape) * sizes.get(spec.dtype, 1)


def parse_network_manifest(data: bytes, path: Path) -> NetworkManifest:
    """NetworkManifest from the bytes of its file; path is used in errors only.

    Raises:
        ArtifactError: not JSON, too large, a duplicate, missing, unknown or malformed field, another version
            of the contract, or the manifest of a segmentation network.
    """
    raw = read_object(data, path)
    if CONTRACT_FIELD not in raw:
        raise ArtifactError(
            f"manifest {path}: field '{CONTRACT_FIELD}'",
            expected="a third-party network, exported from its ONNX file",
            got="no such field, as in the manifest of a segmentation network of this package",
            fix="open it with imp_trt.Segmenter",
        )
    version = raw.get("contract_version")
    if type(version) is int and version > CONTRACT_VERSION:
        raise ArtifactError(
            f"manifest {path}: field 'contract_version'",
            expected=CONTRACT_VERSION,
            got=version,
            fix="update the runtime: pip install --upgrade imp-trt",
        )
    try:
        return _build(raw)
    except check.FieldError as error:
        raise bad_field(path, error.name, error.expected, error.got) from error
    except InvalidInput as error:
        raise ArtifactError(
            f"manifest {path}: {error.what}", expected=error.expected, got=error.got, fix=EXPORT_AGAIN
        ) from error


def _build(raw: Mapping[str, object]) -> NetworkManifest:
    known = {f.name for f in fields(NetworkManifest)}
    check.keys("", raw, known, known)
    data = dict(raw)
    for name in ("inputs", "outputs"):
        tensors = raw[name]
        if not isinstance(tensors, list) or len(tensors) > MAX_TENSORS:
            raise check.FieldError(name, f"a list of at most {MAX_TENSORS} tensors", check.short(tensors))
        data[name] = tuple(parse_spec(f"{name}[{i}]", item) for i, item in enumerate(tensors))
    if raw["engine"] is not None:
        data["engine"] = parse_engine_info(raw["engine"])
    return check.build(NetworkManifest, data)


def _check_tensors(name: str, specs: object) -> None:
    if not isinstance(specs, tuple) or not 1 <= len(specs) <= MAX_TENSORS:
        raise InvalidInput(
            f"manifest field '{name}'", expected=f"1 to {MAX_TENSORS} tensors", got=check.short(specs)
        )
    for i, spec in enumerate(specs):
        place = f"{name}[{i}]"
        check.matches(f"{place}.name", spec.name, _NAME, "a name without control characters")
        check.choice(f"{place}.dtype", spec.dtype, DTYPES)
        if len(spec.shape) > _MAX_RANK:
            raise InvalidInput(
                f"manifest field '{place}.shape'", expected=f"at most {_MAX_RANK} sides", got=len(spec.shape)
            )
        for side in spec.shape:
            check.integer(f"{place}.shape", side, 0, 1 << 31)
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InvalidInput(f"manifest field '{name}'", expected="each name once", got=check.short(names))
