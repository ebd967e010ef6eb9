# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: safetensors with the model configuration in the header. Loading executes no code."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from imp_trt.data.files import write_atomically
from imp_trt.errors import CheckpointError, InvalidInput
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork

FORMAT = "imp_trt.checkpoint"
FORMAT_VERSION = "1"

_Content = tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]
"""Config, metadata and weights; not checked yet."""

_REPLACE_FILE = "download the file again, or write a new one with imp-train"


def save_checkpoint(
    path: str | Path,
    model: ImpNetwork,
    metadata: Mapping[str, object],
    half: bool = False,
) -> Path:
    """Write a model and metadata to a safetensors file, atomically.

    Args:
        path: file to write; replaced if it exists.
        model: network to save with its config.
        metadata: JSON-serializable training information (data, license terms, seed, scores).
        half: store matrices and kernels as float16; vectors and statistics stay float32.

    Raises:
        OutputError: the file cannot be written; no partial file remains.
    """
    tensors = {name: _stored(value, half) for name, value in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": json.dumps(model.config.to_dict()),
        "metadata": json.dumps(dict(metadata)),
    }
    payload = save(tensors, metadata=header)
    return write_atomically(path, payload)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        network: in evaluation mode, with float32 weights.
        metadata: training information.
        sha256: digest of the file that network and metadata were read from.
    """

    network: ImpNetwork
    metadata: dict[str, Any]
    sha256: str


def load_model(path: str | Path) -> tuple[ImpNetwork, dict[str, Any]]:
    """Network and metadata of :func:`read_checkpoint`."""
    checkpoint = read_checkpoint(path)
    return checkpoint.network, checkpoint.metadata


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint written by :func:`save_checkpoint` (or a ``.pt`` of the same content).

    Args:
        path: a ``.safetensors`` file, or a ``.pt``/``.pth`` file holding the dictionary
            ``{"config": ..., "metadata": ..., "weights": ...}``, read with ``weights_only=True``.

    Raises:
        CheckpointError: the file is missing, damaged, of an unknown format, or does not match its config.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path}", expected="an existing file", got="no file", fix="check the path"
        )
    reader = {".safetensors": _read_safetensors, ".pt": _read_pt, ".pth": _read_pt}.get(path.suffix)
    if reader is None:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a .safetensors, .pt or .pth file",
            got=f"suffix {path.suffix!r}",
            fix="pass a checkpoint written by imp-train",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a readable file",
            got=error.strerror or error,
            fix="check its permissions",
        ) from error
    config_data, metadata, weights = reader(path, data)
    if not isinstance(metadata, dict):
        raise CheckpointError(
            f"checkpoint {path}",
            expected="metadata as a dictionary",
            got=type(metadata).__name__,
            fix=_REPLACE_FILE,
        )
    try:
        model = ImpNetwork(ModelConfig.from_dict(config_data))
    except (InvalidInput, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path}", expected="a model config of this version", got=str(error), fix=_REPLACE_FILE
        ) from error
    _load_weights(path, model, weights)
    model.eval()
    return Checkpoint(model, metadata, hashlib.sha256(data).hexdigest())


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    if half and value.is_floating_point() and value.ndim >= 2:
        return value.half()
    return value.clone()


def _read_safetensors(path: Path, data: bytes) -> _Content:
    try:
        weights = load(data)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path}", expected="a complete safetensors file", got=str(error), fix=_REPLACE_FILE
        ) from error
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"format {FORMAT} version {FORMAT_VERSION}",
            got=f"format {header.get('format')} version {header.get('format_version')}",
            fix=_REPLACE_FILE,
        )
    try:
        return json.loads(header["config"]), json.loads(header["metadata"]), weights
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"checkpoint {path}", expected="JSON config and metadata", got=repr(error), fix=_REPLACE_FILE
        ) from error


def _read_pt(path: Path, data: bytes) -> _Content:
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various types for a damaged or unsafe file
        raise CheckpointError(
            f"checkpoint {path}",
            expected="tensors and plain data only",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            fix="save it as safetensors",
        ) from error
    if not isinstance(content, dict) or not {"config", "metadata", "weights"} <= set(content):
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a dictionary with config, metadata and weights",
            got=sorted(content) if isinstance(content, dict) else type(content).__name__,
            fix=_REPLACE_FILE,
        )
    return content["config"], content["metadata"], content["weights"]


def _load_weights(path: Path, model: ImpNetwork, weights: Mapping[str, Tensor]) -> None:
    expected = model.state_dict()
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"the {len(expected)} tensors of its config",
            got=f"{len(missing)} missing {missing[:3]}, {len(extra)} unknown {extra[:3]}",
            fix=_REPLACE_FILE,
        )
    for name, value in weights.items():
        if not isinstance(value, Tensor) or value.shape != expected[name].shape:
            raise CheckpointError(
                f"checkpoint {path}, tensor {name}",
                expected=list(expected[name].shape),
                got=list(value.shape) if isinstance(value, Tensor) else type(value).__name__,
                fix=_REPLACE_FILE,
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"checkpoint {path}, tensor {name}",
                expected="finite values",
                got="NaN or infinity",
                fix=_REPLACE_FILE,
            )
    model.load_state_dict({name: v.to(expected[name].dtype) for name, v in weights.items()})
