# SPDX-License-Identifier: Apache-2.0
"""Calls of the two plugin operators with their float64 results, as folders that plugin_harness reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imp_trt.ops.mask_projection.reference import instance_mask_projection_reference

TYPES = ("f32", "f16", "bf16")
# Values are computed in float32 and rounded once.
TOLERANCES = {"f32": (1e-5, 1e-5), "f16": (1e-6, 2.0**-10), "bf16": (1e-6, 2.0**-7)}


def bfloat16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Float32 values that bfloat16 can hold, as its bits."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def representable(values: NDArray[Any], element: str) -> NDArray[np.float32]:
    """The values rounded so that the type can hold them."""
    if element == "f16":
        return values.astype(np.float16).astype(np.float32)
    if element == "bf16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return bits.view(np.float32)
    return values.astype(np.float32)


def encoded(values: NDArray[Any], element: str) -> bytes:
    """The values in the type, little-endian."""
    if element == "bf16":
        return bfloat16_bits(values).tobytes()
    types = {"f32": np.float32, "f16": np.float16, "i32": np.int32, "i64": np.int64}
    return values.astype(types[element]).tobytes()


def decoded(data: bytes, element: str) -> NDArray[np.float64]:
    """The values that :func:`encoded` wrote, flat."""
    if element == "bf16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(data, {"f32": np.float32, "f16": np.float16}[element]).astype(np.float64)


class Case(NamedTuple):
    """A folder that :func:`write_case` wrote; inputs and output: type and shape, in the operator's order."""

    operator: str
    fields: dict[str, Any]
    inputs: list[tuple[str, list[int]]]
    data: list[bytes]
    output: tuple[str, list[int]]
    expected: NDArray[np.float64]


def read_case(folder: Path) -> Case:
    lines = [line.split() for line in (folder / "case.txt").read_text().splitlines()]
    read: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "text": str}
    inputs = [words[1:] for words in lines if words[0] == "input"]
    (output,) = (words[1:] for words in lines if words[0] == "output")
    return Case(
        operator=lines[0][1],
        fields={words[1]: read[words[0]](words[2]) for words in lines if words[0] in read},
        inputs=[(element, [int(side) for side in shape]) for _, element, *shape in inputs],
        data=[(folder / f"{name}.bin").read_bytes() for name, *_ in inputs],
        output=(output[0], [int(side) for side in output[1:]]),
        expected=np.fromfile(folder / "expected.bin"),
    )


def write_case(
    folder: Path,
    operator: str,
    fields: dict[str, Any],
    inputs: dict[str, tuple[str, NDArray[Any]]],
    element: str,
    expected: NDArray[np.float64],
) -> Path:
    """Writes what tests/gpu/harness_case.h reads; inputs: name -> (type, values)."""
    folder.mkdir(parents=True)
    words = {int: "int", float: "float", str: "text"}
    lines = [f"operator {operator}"]
    lines += [f"{words[type(value)]} {name} {value}" for name, value in fields.items()]
    for name, (kind, values) in inputs.items():
        lines.append(f"input {name} {kind} {' '.join(map(str, values.shape))}")
        (folder / f"{name}.bin").write_bytes(encoded(values, kind))
    lines.append(f"output {element} {' '.join(map(str, expected.shape))}")
    (folder / "expected.bin").write_bytes(expected.astype(np.float64).tobytes())
    lines.append("tolerance {} {}".format(*TOLERANCES[element]))
    (folder / "case.txt").write_text("\n".join(lines) + "\n")
    return folder


def mask_projection_case(folder: Path, sampling: str, element: str, labels: str = "i32") -> Path:
    """Two images whose canvas is larger than one tile of the kernel, with boxes that contribute nothing."""
    batch, instances, cells, classes, canvas = 2, 4, 5, 3, (19, 70)
    random = np.random.default_rng(len(sampling) * 7 + len(element))
    corners = random.uniform(-20, 250, (batch, instances, 2)) * (1.0, 0.3)
    boxes = np.concatenate([corners, corners + random.uniform(4, 200, (batch, instances, 2))], 2)
    boxes[1, 0, 2] = np.nan
    boxes = boxes.astype(np.float32)
    scores = random.uniform(0.1, 1, (batch, instances)).astype(np.float32)
    classes_of = random.integers(0, classes, (batch, instances))
    classes_of[0, 0] = -1
    masks = representable(random.uniform(0, 1, (batch, instances, cells, cells)), element)
    fields = {
        "num_classes": classes,
        "canvas_h": canvas[0],
        "canvas_w": canvas[1],
        "spatial_scale": 0.25,
        "sampling": sampling,
    }
    expected = instance_mask_projection_reference(
        boxes, scores, classes_of, masks, classes, canvas, 0.25, sampling
    )
    inputs = {
        "boxes": ("f32", boxes),
        "scores": ("f32", scores),
        "labels": (labels, classes_of),
        "masks": (element, masks),
    }
    return write_case(folder, "InstanceMaskProjection", fields, inputs, element, expected)


def roi_align_case(folder: Path, element: str, ratio: int = 2) -> Path:
    """Boxes of all levels, and ones that pool zeros, over more channels than a block takes."""
    from tests.support import roi_align  # needs PyTorch, which takes seconds to import

    levels = [
        representable(level.numpy(), element) for level in roi_align.pyramid(1, 35, 64, 96, seed=len(element))
    ]
    every = roi_align.boxes_of_every_level(1, 5, 64, 96).numpy()
    boxes = np.concatenate([every, roi_align.awkward_boxes().numpy()[:, [0, 7, 11]]], 1)
    size, aligned = 3, element == "f16"
    expected = roi_align.reference(
        [level.astype(np.float64) for level in levels], boxes, size, ratio, aligned=aligned
    )
    fields = {"output_size": size, "sampling_ratio": ratio, "canonical_level": 4, "canonical_size": 224}
    if aligned:
        fields["aligned"] = 1
    inputs = {f"p{level + 2}": (element, values) for level, values in enumerate(levels)}
    inputs["boxes"] = ("f32", boxes)
    return write_case(folder, "ImpMultilevelRoiAlign", fields, inputs, element, expected)


def write_cases(folder: Path) -> list[Path]:
    """Every sampling rule and type at least once, both label types."""
    cases = [
        mask_projection_case(folder / f"bilinear_{element}", "bilinear", element, labels)
        for element, labels in zip(TYPES, ("i32", "i64", "i32"), strict=True)
    ]
    cases.append(mask_projection_case(folder / "nearest_f16", "nearest", "f16"))
    cases.append(mask_projection_case(folder / "rect_bf16", "rect", "bf16", "i64"))
    cases += [roi_align_case(folder / f"roi_align_{element}", element) for element in TYPES]
    return cases + [roi_align_case(folder / f"adaptive_{element}", element, 0) for element in ("f32", "f16")]
