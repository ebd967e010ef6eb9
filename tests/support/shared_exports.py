# SPDX-License-Identifier: Apache-2.0
"""ONNX files of networks that several tests export: PyTorch takes five seconds for each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import wraps
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import nn

from tests.support.once import once


def shared(export: Callable[..., ModelProto]) -> Callable[..., ModelProto]:
    """An export function that runs once, in all processes of a test run, for one network and batch."""

    @wraps(export)
    def exported(module: Any, batch: int = 1) -> ModelProto:
        name = f"{export.__name__}.{digest(module)}.{batch}"
        folder = once(
            name,
            lambda folder: (folder / "model.onnx").write_bytes(export(module, batch).SerializeToString()),
        )
        return onnx.load_from_string((folder / "model.onnx").read_bytes())

    return exported


def digest(module: nn.Module) -> str:
    """Of the weights, the buffers, and the settings of each layer."""
    found = hashlib.sha256()
    for name, layer in module.named_modules():
        settings = [f"{key}={value!r}" for key, value in vars(layer).items() if _is_setting(key, value)]
        found.update(f"{name} {type(layer).__qualname__} {settings}\n".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else b"")
        found.update(repr(tensor.item()).encode() if not tensor.ndim else b"")
    return found.hexdigest()[:32]


def _is_setting(key: str, value: object) -> bool:
    kinds = (bool, int, float, str, tuple, list, dict, torch.dtype)
    return not key.startswith("_") and (value is None or is_dataclass(value) or isinstance(value, kinds))
