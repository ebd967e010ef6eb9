# SPDX-License-Identifier: Apache-2.0
"""Types of the layers of a network and of an engine, counted and compared with the requested precision.

In a strongly typed network every type is known before the build; the layers of the engine are checked too if
its inspector can read them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from imp_trt.artifacts.manifest import Precision
from imp_trt.errors import PrecisionError
from imp_trt.plugins.tensorrt_types import INetworkDefinition

REQUIRED: dict[Precision, str] = {
    "fp32": "Float",
    "fp16": "Half",
    "bf16": "BFloat16",
    "int8": "Int8",
    "fp8": "FP8",
}
"""Precision -> name of its type in the engine inspector."""

NETWORK_NAMES = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8", "FP8": "FP8"}
"""Member of the builder's DataType -> name in the engine inspector."""

_COMPUTING = ("CONVOLUTION", "DECONVOLUTION")
_RANK = ("Int8", "FP8", "BFloat16", "Half", "Float")
# In addition to the required type: float32 for boxes and coordinates, and a float type in quantized engines.
_ALLOWED: dict[Precision, tuple[str, ...]] = {
    "fp32": ("Float",),
    "fp16": ("Half", "Float"),
    "bf16": ("BFloat16", "Float"),
    "int8": ("Int8", "Half", "BFloat16", "Float"),
    "fp8": ("FP8", "Half", "BFloat16", "Float"),
}


def network_types(network: INetworkDefinition) -> dict[str, int]:
    """Type -> number of convolutions of a parsed network.

    Matrix products are not counted: they may be part of a gather or of box arithmetic, which stay float32.

    A layer after a dequantization counts as the quantized type: the builder fuses the two into one quantized
    kernel.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name not in _COMPUTING:
            continue
        kind = str(layer.get_output(0).dtype.name)
        producer = producers.get(layer.get_input(0).name)
        if producer is not None and producer.type.name == "DEQUANTIZE":
            kind = str(producer.get_input(0).dtype.name)
        counts[NETWORK_NAMES.get(kind, kind.title())] += 1
    return dict(counts)


def engine_types(text: str) -> dict[str, int]:
    """Type -> number of layers of an engine.

    A layer counts as the narrowest floating-point or quantized type of its inputs and outputs; layers without
    one (indices, flags) are not counted.

    Args:
        text: the inspector's JSON for the whole engine, built with detailed profiling verbosity.
    """
    counts: Counter[str] = Counter()
    for layer in json.loads(text).get("Layers", ()):
        if isinstance(layer, str):  # the engine was built without details: names only
            continue
        tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
        types = {_type_of(str(tensor.get("Format/Datatype", ""))) for tensor in tensors}
        narrowest = next((name for name in _RANK if name in types), None)
        if narrowest is not None:
            counts[narrowest] += 1
    return dict(counts)


def _type_of(text: str) -> str:
    """Float, Half, ... from "Half", "Row major linear FP16 format", "Int8", "N/A due to dynamic shapes"."""
    words = text.replace(",", " ").split()
    names = {
        "FP32": "Float",
        "FP16": "Half",
        "BF16": "BFloat16",
        "INT8": "Int8",
        "FLOAT": "Float",
        "HALF": "Half",
        "BFLOAT16": "BFloat16",
        "FP8": "FP8",
    }
    return next((names[word.upper()] for word in words if word.upper() in names), "")


def check_network(precision: Precision, counts: Mapping[str, int], foreign: bool = False) -> None:
    """Check that the typed network has the requested precision.

    All convolutions must have its type; for int8 and fp8 at least a quarter, because first and last layers
    stay in a floating-point type, and the heads' last layers are counted once per pyramid level. A
    third-party network may have none, or some in float32 whose weights exceed the type's range.

    Raises:
        PrecisionError: it has not; the message has both.
    """
    required, total = REQUIRED[precision], sum(counts.values())
    quantized = precision in ("int8", "fp8")
    others = set(counts) - set(_ALLOWED[precision])
    enough = 4 * counts.get(required, 0) >= total if quantized else counts.get(required, 0) == total
    if foreign:
        enough = not total or counts.get(required, 0) > 0
    if (total or foreign) and enough and not others:
        return
    raise PrecisionError(
        f"the graph does not compute in {precision}",
        expected=f"{'at least a quarter of' if quantized else 'all'} its convolutions in {required}",
        got=_listed(counts),
        fix=f"export it again with imp-export --engine {precision}; no engine was written",
    )


def check_engine(precision: Precision, counts: Mapping[str, int], foreign: bool = False) -> None:
    """Check that the built engine has layers of the requested precision and no other 16-bit float ones.

    The types of the network are known; this checks that the builder has kept them. uint8 is not checked: the
    inspector's name for the uint8 frame differs between versions. A third-party network may have no layer
    of the precision.

    Raises:
        PrecisionError: it has not; the message has both.
    """
    required = REQUIRED[precision]
    others = (set(counts) & {"Half", "BFloat16"}) - set(_ALLOWED[precision])
    if (counts.get(required, 0) > 0 or foreign) and not others:
        return
    raise PrecisionError(
        f"the engine does not compute in {precision}",
        expected=f"layers in {required}",
        got=_listed(counts),
        fix="the GPU may not support that type: choose another precision; no engine was written",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(counts.items())) or "no such layers"
