# SPDX-License-Identifier: Apache-2.0
"""The part of a manifest that describes the second file of an artifact: the network from a canvas on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from imp_trt.artifacts import fields as check
from imp_trt.artifacts.engine_info import EngineInfo, parse_engine_info
from imp_trt.artifacts.tensor_spec import TensorSpec
from imp_trt.errors import InvalidInput

_MAX_VALUES = 1 << 28


@dataclass(frozen=True)
class CanvasPart:
    """Backbone and semantic head of the artifact's network, with the canvas as a second input.

    It computes the class map of a frame from a canvas that was carried over from earlier frames, without the
    detector. Its inputs are ``frame``, as in the artifact's file, and ``canvas``; its output is ``semantic``.

    Attributes:
        shape: [B, T, h, w] of the canvas: frames per call, thing classes, pixels of the canvas.
        sha256: hash of the file's bytes; write_artifact fills it in.
        verification: measurements, as JSON data.
        engine: what built the engine; only for engines.

    Raises:
        InvalidInput: a value has the wrong type or is out of its range.
    """

    shape: tuple[int, int, int, int]
    sha256: str = ""
    verification: Mapping[str, object] = field(default_factory=dict)
    engine: EngineInfo | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple) or len(self.shape) != 4:
            raise InvalidInput(
                "manifest field 'canvas_part.shape'", expected="[B, T, h, w]", got=check.short(self.shape)
            )
        for side in self.shape:
            check.integer("canvas_part.shape", side, 1, 1 << 16)
        if math.prod(self.shape) > _MAX_VALUES:
            raise InvalidInput(
                "manifest field 'canvas_part.shape'",
                expected=f"at most {_MAX_VALUES:,} values",
                got=f"{math.prod(self.shape):,}",
            )
        check.digest("canvas_part.sha256", self.sha256)
        check.mapping("canvas_part.verification", self.verification)
        if not isinstance(self.engine, EngineInfo | None):
            raise InvalidInput(
                "manifest field 'canvas_part.engine'", expected="an object", got=check.short(self.engine)
            )

    @property
    def spec(self) -> TensorSpec:
        """The second input."""
        return TensorSpec("canvas", "float32", self.shape)


def parse_canvas_part(raw: object) -> CanvasPart:
    """CanvasPart from JSON data.

    Raises:
        FieldError, InvalidInput: a field is missing, unknown or malformed.
    """
    data = check.mapping("canvas_part", raw)
    names = {f.name for f in fields(CanvasPart)}
    check.keys("canvas_part.", data, names, names)
    shape = data["shape"]
    if not isinstance(shape, list) or not check.is_list(shape, int):
        raise check.FieldError("canvas_part.shape", "a list of integers", check.short(shape))
    check.text("canvas_part.sha256", data["sha256"])
    engine = None if data["engine"] is None else parse_engine_info(data["engine"])
    return check.build(CanvasPart, {**data, "shape": tuple(shape), "engine": engine})
