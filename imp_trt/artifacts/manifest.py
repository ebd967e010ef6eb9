# SPDX-License-Identifier: Apache-2.0
"""The manifest next to every artifact: what the file contains and which input it takes.

The text is untrusted input. Parsing is strict: every field has a type and a range, unknown and
duplicate fields are rejected, and each error names the field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

from imp_trt.artifacts import fields as check
from imp_trt.artifacts.canvas_part import CanvasPart, parse_canvas_part
from imp_trt.artifacts.engine_info import EngineInfo, parse_engine_info
from imp_trt.artifacts.fields import EXPORT_AGAIN
from imp_trt.artifacts.json_object import MAX_MANIFEST_BYTES, bad_field, object_text, read_object
from imp_trt.artifacts.tensor_spec import TensorSpec, parse_spec
from imp_trt.classes import ClassTable
from imp_trt.errors import ArtifactError, InvalidInput
from imp_trt.ops.mask_projection.options import SAMPLING_RULES, Sampling

__all__ = [
    "EXPORT_AGAIN",
    "IMP_OP",
    "KINDS",
    "MAX_MANIFEST_BYTES",
    "PRECISIONS",
    "QUANTIZED",
    "SCHEMA_VERSION",
    "CanvasPart",
    "EngineInfo",
    "InputContract",
    "Manifest",
    "Precision",
    "TensorSpec",
    "output_specs",
    "parse_manifest",
]

SCHEMA_VERSION = 1
CONTRACT_FIELD = "contract"
"""The field that says that a manifest is of another kind; see :mod:`imp_trt.artifacts.network_manifest`."""

Kind = Literal["onnx", "engine", "checkpoint"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
FitRule = Literal["letterbox", "resize"]

KINDS: tuple[Kind, ...] = ("onnx", "engine", "checkpoint")
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
QUANTIZED: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that need calibration frames."""
FITS: tuple[FitRule, ...] = ("letterbox", "resize")
OPTIONAL = ("golden_sha256", "canvas_part", "score_threshold")
"""Fields that a manifest file has only if they have a value."""
IMP_OP = "InstanceMaskProjection"
ROI_ALIGN_OP = "ImpMultilevelRoiAlign"

_MAX_SIDE = 1 << 16
# Bytes of memory that a call needs at least: a manifest of 1 KB must not ask for terabytes.
MAX_PIXELS = 1 << 28
"""Limit of batch x height x width, and of the values in the instance masks of a batch."""
_OP_FIELDS = {IMP_OP: frozenset(("version", "sampling")), ROI_ALIGN_OP: frozenset(("version",))}
_OP_VERSION = re.compile(r"[0-9]{1,6}")
# It becomes part of commands in error messages.
TARGET = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class InputContract:
    """The input of the graph, and how a frame of another size is resized to it.

    Attributes:
        height, width: the graph's frame size in pixels.
        batch: frames per call, fixed when the file was made.
        color, dtype, layout: always BGR uint8 ``[B, H, W, 3]``; stored for other programs.
        fit: "letterbox" keeps the aspect ratio, image top-left, padded right and below;
            "resize" stretches.
        pad_value: gray level 0-255 of the letterbox padding.

    Raises:
        InvalidInput: a value is out of its range.
    """

    height: int
    width: int
    batch: int = 1
    color: str = "bgr"
    dtype: str = "uint8"
    layout: str = "BHWC"
    fit: FitRule = "letterbox"
    pad_value: int = 114

    def __post_init__(self) -> None:
        check.integer("input.height", self.height, 1, _MAX_SIDE)
        check.integer("input.width", self.width, 1, _MAX_SIDE)
        check.integer("input.batch", self.batch, 1, 4096)
        check.choice("input.color", self.color, ("bgr",))
        check.choice("input.dtype", self.dtype, ("uint8",))
        check.choice("input.layout", self.layout, ("BHWC",))
        check.choice("input.fit", self.fit, FITS)
        check.integer("input.pad_value", self.pad_value, 0, 255)
        _check_size("input", self.batch * self.height * self.width)

    @property
    def spec(self) -> TensorSpec:
        """The graph's input; the canvas part has the canvas as a second one."""
        return TensorSpec("frame", self.dtype, (self.batch, self.height, self.width, 3))


def output_specs(contract: InputContract, detections: int, mask_size: int) -> tuple[TensorSpec, ...]:
    """The six outputs, in the graph's order, for an input, N detections and P x P masks."""
    b, n, p = contract.batch, detections, mask_size
    return (
        TensorSpec("semantic", "uint8", (b, contract.height, contract.width)),
        TensorSpec("boxes", "float32", (b, n, 4)),
        TensorSpec("scores", "float32", (b, n)),
        TensorSpec("labels", "int32", (b, n)),
        TensorSpec("masks", "float32", (b, n, p, p)),
        TensorSpec("num_detections", "int32", (b,)),
    )


@dataclass(frozen=True)
class Manifest:
    """Contents of ``<artifact>.json``.

    Attributes:
        kind: "onnx" or "engine" for files; "checkpoint" only in memory, for weights run directly.
        classes: names, things and palette of the semantic classes.
        input: size, layout and fitting rule of the frame.
        detections: N, rows of boxes, scores, labels and masks; 0 for a model without a detector.
        mask_size: P, side of an instance mask.
        precision: fp32, fp16, bf16, int8 or fp8.
        target: the backend or device profile the file was exported for.
        ops: custom operators in the file, e.g.
            ``{"InstanceMaskProjection": {"version": "1", "sampling": "bilinear"}}``.
        weights_sha256: hash of the checkpoint's bytes.
        opset: ONNX opset; None where there is no ONNX graph.
        producer: package name -> version of the packages that wrote the file.
        verification, benchmark: measurements, as JSON data.
        terms: license terms of the weights, shown to users, or None.
        engine: what built the engine and where it runs; only for kind "engine".
        created: UTC time of writing, ISO 8601; write_artifact fills it in.
        sha256: hash of the artifact's bytes; write_artifact fills it in.
        schema_version: version of this layout.
        golden_sha256: hash of the golden frames (:mod:`imp_trt.artifacts.golden`), or empty without them;
            then the file does not have this field. write_artifact fills it in.
        outputs: the six output tensors; empty: they are computed; else they must equal
            :func:`output_specs`.
        canvas_part: the second file of the artifact, with the canvas as an input; None, and no such field in
            the file, if there is none.
        score_threshold: the graph leaves out instances with lower scores, 0-1; None, and no such field in
            the file, without a detector and in files that were written before this was recorded.

    Raises:
        InvalidInput: a field has the wrong type or is out of its range.
    """

    kind: Kind
    classes: ClassTable
    input: InputContract
    detections: int
    mask_size: int
    precision: Precision
    target: str
    ops: Mapping[str, Mapping[str, object]]
    weights_sha256: str
    opset: int | None = None
    producer: Mapping[str, str] = field(default_factory=dict)
    verification: Mapping[str, object] = field(default_factory=dict)
    benchmark: Mapping[str, object] = field(default_factory=dict)
    terms: str | None = None
    engine: EngineInfo | None = None
    created: str = ""
    sha256: str = ""
    schema_version: int = SCHEMA_VERSION
    golden_sha256: str = ""
    outputs: tuple[TensorSpec, ...] = ()
    canvas_part: CanvasPart | None = None
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        check.integer("schema_version", self.schema_version, SCHEMA_VERSION, SCHEMA_VERSION)
        check.choice("kind", self.kind, KINDS)
        check.choice("precision", self.precision, PRECISIONS)
        check.matches("target", self.target, TARGET, 'a name such as "jetson-orin"')
        check.integer("detections", self.detections, 0, 1 << 16)
        check.integer("mask_size", self.mask_size, 1, 1 << 10)
        _check_size("detections", self.input.batch * self.detections * self.mask_size**2)
        if self.score_threshold is not None:
            check.fraction("score_threshold", self.score_threshold)
        if self.opset is not None:
            check.integer("opset", self.opset, 1, 1000)
        for name in ("sha256", "weights_sha256", "golden_sha256"):
            check.digest(name, getattr(self, name))
        for name in ("ops", "producer", "verification", "benchmark"):
            check.mapping(name, getattr(self, name))
        for name, details in self.ops.items():
            check_operator(name, details)
        for name, version in self.producer.items():
            check.text(f"producer.{name}", version)
        if self.terms is not None:
            check.text("terms", self.terms)
        if not isinstance(self.created, str):
            raise InvalidInput("manifest field 'created'", expected="a string", got=repr(self.created))
        self._check_engine()
        self._check_outputs()
        self._check_canvas_part()

    def _check_outputs(self) -> None:
        expected = output_specs(self.input, self.detections, self.mask_size)
        if not self.outputs:
            object.__setattr__(self, "outputs", expected)
        for spec, other in zip(self.outputs, expected, strict=False):
            if spec != other:
                raise InvalidInput(f"manifest field 'outputs.{spec.name}'", expected=other, got=spec)
        if len(self.outputs) != len(expected):
            raise InvalidInput("manifest field 'outputs'", expected=len(expected), got=len(self.outputs))

    def _check_engine(self) -> None:
        required = self.kind == "engine"
        if isinstance(self.engine, EngineInfo) if required else self.engine is None:
            return
        raise InvalidInput(
            "manifest field 'engine'",
            expected="an object" if required else f"nothing for kind {self.kind!r}",
            got=check.short(self.engine),
        )

    def _check_canvas_part(self) -> None:
        part = self.canvas_part
        if part is None:
            return
        if not isinstance(part, CanvasPart):
            raise InvalidInput(
                "manifest field 'canvas_part'", expected="an object or nothing", got=check.short(part)
            )
        batch, planes, height, width = part.shape
        expected = (self.input.batch, len(self.classes.things))
        if (batch, planes) != expected or height > self.input.height or width > self.input.width:
            raise InvalidInput(
                "manifest field 'canvas_part.shape'",
                expected=f"{[*expected]} and a canvas within {self.input.height}x{self.input.width}",
                got=list(part.shape),
            )
        if (part.engine is not None) != (self.kind == "engine"):
            raise InvalidInput(
                "manifest field 'canvas_part.engine'",
                expected="an object for kind 'engine', else nothing",
                got=check.short(part.engine),
            )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs: the frame."""
        return (self.input.spec,)

    @property
    def sampling(self) -> Sampling:
        """The IMP sampling rule of the file, which is also used to paste masks."""
        rule = self.ops.get(IMP_OP, {}).get("sampling", "bilinear")
        return next(known for known in SAMPLING_RULES if known == rule)  # __post_init__ has checked it

    def without_effect(self, min_score: float) -> str | None:
        """Why a minimum score does not select instances as asked, for a message; None if it does."""
        if not self.detections:
            return "the network has no detector, and returns no instances" if min_score > 0 else None
        if self.score_threshold is None or not 0 < min_score < self.score_threshold:
            return None  # 0 asks for all that there are
        return (
            f"the network itself leaves out instances with scores below {self.score_threshold:g}, the "
            "score_threshold of its weights' detector_config"
        )

    def to_dict(self) -> dict[str, object]:
        """JSON data, in the order of the fields."""
        data: dict[str, object] = asdict(self)
        data["classes"] = self.classes.to_dict()
        for name in OPTIONAL:  # as before there was such a field
            if not data[name]:
                del data[name]
        return data

    def to_json(self) -> str:
        """Text of the manifest file; raises InvalidInput for values that JSON does not support."""
        return object_text(self.to_dict())


def _check_size(name: str, count: int) -> None:
    if count > MAX_PIXELS:
        raise InvalidInput(
            f"manifest field '{name}'", expected=f"at most {MAX_PIXELS:,} values", got=f"{count:,}"
        )


def check_operator(name: str, details: object) -> None:
    """InvalidInput unless these are a known operator and its fields: one that is misspelled has no effect."""
    known = _OP_FIELDS.get(name)
    if known is None:
        raise InvalidInput(
            f"manifest field 'ops.{name[:80]}'",
            expected=f"one of {', '.join(_OP_FIELDS)}",
            got="another name",
        )
    values = check.mapping(f"ops.{name}", details)
    for key in values:
        if key not in known:
            raise InvalidInput(
                f"manifest field 'ops.{name}.{key[:80]}'", expected="no such field", got="an unknown field"
            )
    if "version" not in values:
        raise InvalidInput(f"manifest field 'ops.{name}.version'", expected="a value", got="nothing")
    check.matches(f"ops.{name}.version", values["version"], _OP_VERSION, "a number as text")
    if "sampling" in values:
        check.choice(f"ops.{name}.sampling", values["sampling"], SAMPLING_RULES)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Manifest from the bytes of its file; path is used in errors only.

    Raises:
        ArtifactError: not JSON, too large, a duplicate, missing, unknown or malformed field, or
            another schema version.
    """
    raw = read_object(data, path)
    if CONTRACT_FIELD in raw:
        raise ArtifactError(
            f"manifest {path}: field '{CONTRACT_FIELD}'",
            expected="a segmentation network of this package, whose manifest has no such field",
            got=f"{check.short(raw[CONTRACT_FIELD])}: a third-party ONNX file, exported by imp-export",
            fix="open it with imp_trt.Engine",
        )
    _check_schema(raw, path)
    try:
        return _build(raw)
    except check.FieldError as error:
        raise bad_field(path, error.name, error.expected, error.got) from error
    except InvalidInput as error:
        raise ArtifactError(
            f"manifest {path}: {error.what}", expected=error.expected, got=error.got, fix=EXPORT_AGAIN
        ) from error


def _check_schema(raw: Mapping[str, object], path: Path) -> None:
    version = raw.get("schema_version")
    if type(version) is not int:
        raise bad_field(path, "schema_version", SCHEMA_VERSION, check.short(version))
    if version != SCHEMA_VERSION:
        newer = version > SCHEMA_VERSION
        raise ArtifactError(
            f"manifest {path}: field 'schema_version'",
            expected=SCHEMA_VERSION,
            got=version,
            fix="update the runtime: pip install --upgrade imp-trt" if newer else EXPORT_AGAIN,
        )


def _build(raw: Mapping[str, object]) -> Manifest:
    known = {f.name for f in fields(Manifest)}
    check.keys("", raw, known - {*OPTIONAL}, known)
    data = dict(raw)
    data["classes"] = _classes(raw["classes"])
    contract = check.mapping("input", raw["input"])
    names = {f.name for f in fields(InputContract)}
    check.keys("input.", contract, names, names)
    data["input"] = check.build(InputContract, contract)
    outputs = raw["outputs"]
    # With an empty list Manifest would compute the outputs; a file must list them.
    if not isinstance(outputs, list) or not outputs:
        raise check.FieldError("outputs", "a list of tensors", check.short(outputs))
    data["outputs"] = tuple(parse_spec(f"outputs[{i}]", item) for i, item in enumerate(outputs))
    if raw["engine"] is not None:
        data["engine"] = parse_engine_info(raw["engine"])
    if "canvas_part" in raw:
        data["canvas_part"] = parse_canvas_part(raw["canvas_part"])
    if "score_threshold" in raw:
        check.fraction("score_threshold", raw["score_threshold"])
    return check.build(Manifest, data)


def _classes(raw: object) -> ClassTable:
    data = check.mapping("classes", raw)
    keys = {"names", "things", "palette"}
    check.keys("classes.", data, keys, keys)
    # ClassTable.from_dict converts values ("3" -> 3); in a file they must have the right type.
    if not check.is_list(data["names"], str):
        raise check.FieldError("classes.names", "a list of strings", check.short(data["names"]))
    if not check.is_list(data["things"], int):
        raise check.FieldError("classes.things", "a list of integers", check.short(data["things"]))
    palette = data["palette"]
    if not isinstance(palette, list) or not all(check.is_list(rgb, int) and len(rgb) == 3 for rgb in palette):
        raise check.FieldError("classes.palette", "a list of [r, g, b]", check.short(palette))
    try:
        return ClassTable.from_dict(data)
    except InvalidInput as error:
        raise check.FieldError(
            f"classes: {error.what}", str(error.expected), check.short(error.got)
        ) from error
