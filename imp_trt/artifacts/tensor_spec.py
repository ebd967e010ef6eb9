# SPDX-License-Identifier: Apache-2.0
"""Name, type and shape of an input or output of a graph."""

from __future__ import annotations

from dataclasses import dataclass

from imp_trt.artifacts import fields as check


@dataclass(frozen=True)
class TensorSpec:
    """Name, NumPy dtype name and static shape of one tensor of the graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


def parse_spec(name: str, raw: object) -> TensorSpec:
    """TensorSpec from JSON data; name is that of the field.

    Raises:
        FieldError: a field is missing, unknown or malformed.
    """
    data = check.mapping(name, raw)
    keys = {"name", "dtype", "shape"}
    check.keys(f"{name}.", data, keys, keys)
    shape = data["shape"]
    if not isinstance(shape, list) or not check.is_list(shape, int):
        raise check.FieldError(f"{name}.shape", "a list of integers", check.short(shape))
    return TensorSpec(str(data["name"]), str(data["dtype"]), tuple(shape))
