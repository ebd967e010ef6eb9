"""In which type do the layers of a network or an engine compute? Read, counted, and held against a wish.

A strongly typed network fixes every type before the build; an engine that its inspector can open is read
as well, because that is what runs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from imp_trt.errors import PrecisionError

WANTED = {"fp32": "Float", "fp16": "Half", "bf16": "BFloat16", "int8": "Int8", "fp8": "FP8"}
"""Precision -> name of its type, as the engine inspector writes it."""

NETWORK_NAMES = {"FLOAT": "Float", "HALF": "Half", "BF16": "BFloat16", "INT8": "Int8", "FP8": "FP8"}
"""Member of the builder's DataType -> name."""

_COMPUTING = ("CONVOLUTION", "DECONVOLUTION")
_RANK = ("Int8", "FP8", "BFloat16", "Half", "Float")
# Besides the asked type: float32 for boxes and coordinates, and in quantized engines a float type between.
_ALLOWED = {
    "fp32": ("Float",),
    "fp16": ("Half", "Float"),
    "bf16": ("BFloat16", "Float"),
    "int8": ("Int8", "Half", "BFloat16", "Float"),
    "fp8": ("FP8", "Half", "BFloat16", "Float"),
}


def network_types(network: Any) -> dict[str, int]:
    """Type -> number of convolutions of a parsed network.

    Convolutions, because a matrix product may be part of a gather or of box arithmetic, which stays float32.

    A layer whose input was just dequantized counts as the quantized type: that pair is what the builder
    fuses into one quantized kernel.

    Args:
        network: INetworkDefinition.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(k).name: layer for layer in layers for k in range(layer.num_outputs)}
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.type.name not in _COMPUTING:
            continue
        kind = str(layer.get_output(0).dtype.name)
        maker = makers.get(layer.get_input(0).name)
        if maker is not None and maker.type.name == "DEQUANTIZE":
            kind = str(maker.get_input(0).dtype.name)
        counts[NETWORK_NAMES.get(kind, kind.title())] += 1
    return dict(counts)


def engine_types(text: str) -> dict[str, int]:
    """Type -> number of layers of an engine.

    A layer counts as the narrowest floating or quantized type among its inputs and outputs; layers that
    touch none (indices, flags) are left out.

    Args:
        text: the inspector's JSON for the whole engine, built with detailed profiling verbosity.
    """
    counts: Counter[str] = Counter()
    for layer in json.loads(text).get("Layers", ()):
        if isinstance(layer, str):  # the engine was built without details: names only
            continue
        tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
        found = {_type_of(str(tensor.get("Format/Datatype", ""))) for tensor in tensors}
        narrowest = next((name for name in _RANK if name in found), None)
        if narrowest is not None:
            counts[narrowest] += 1
    return dict(counts)


def _type_of(text: str) -> str:
    """Float, Half ... from "Half", "Row major linear FP16 format", "Int8", "N/A due to dynamic shapes"."""
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


def check_network(precision: str, counts: Mapping[str, int]) -> None:
    """Raise unless the typed network computes in the asked precision.

    Every convolution must be of its type; for int8 and fp8 at least a quarter, because first and last
    layers stay in a floating type, and the heads' last layers are counted once per pyramid level.

    Raises:
        PrecisionError: names both.
    """
    wanted, total = WANTED[precision], sum(counts.values())
    quantized = precision in ("int8", "fp8")
    alien = set(counts) - set(_ALLOWED[precision])
    enough = 4 * counts.get(wanted, 0) >= total if quantized else counts.get(wanted, 0) == total
    if total and enough and not alien:
        return
    raise PrecisionError(
        f"the graph does not compute in {precision}",
        expected=f"{'at least a quarter of' if quantized else 'all'} its convolutions in {wanted}",
        got=_listed(counts),
        fix=f"export it again with imp-export --engine {precision}; no engine was written",
    )


def check_engine(precision: str, counts: Mapping[str, int]) -> None:
    """Raise unless the built engine has layers of the asked precision and no other 16-bit float ones.

    The typed network decides; this is the check that the builder kept to it. Bytes are not held against
    an engine: how the inspector names the uint8 frame differs between versions.

    Raises:
        PrecisionError: names both.
    """
    wanted = WANTED[precision]
    alien = (set(counts) & {"Half", "BFloat16"}) - set(_ALLOWED[precision])
    if counts.get(wanted, 0) > 0 and not alien:
        return
    raise PrecisionError(
        f"the engine does not compute in {precision}",
        expected=f"layers in {wanted}",
        got=_listed(counts),
        fix="the GPU may lack arithmetic of that type: ask for another precision; no engine was written",
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} in {name}" for name, count in sorted(counts.items())) or "no such layers"
