# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: safetensors with the model configuration in the header. Loading executes no code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import reprlib
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from imp_trt.data.files import open_regular, write_atomically
from imp_trt.data.unique_keys import unique_keys
from imp_trt.errors import CheckpointError, InvalidInput
from imp_trt.models.config import ModelConfig
from imp_trt.models.network import ImpNetwork

FORMAT = "imp_trt.checkpoint"
FORMAT_VERSION = "1"

MAX_CHECKPOINT_BYTES = 4 << 30
MAX_HEADER_BYTES = 16 << 20

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
}
"""safetensors' names of the types that a checkpoint may have."""

# Integers instead of a kernel are quantized values whose scale is elsewhere.
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int64, torch.int32)
_MAX_UNPACKED_MORE = 1 << 20

FOREIGN = (
    "pass a checkpoint written by imp-train or save_checkpoint; convert a Mask R-CNN of another program with "
    "imp-import FILE -o model.safetensors"
)
_REPLACE_FILE = "download the file again, or delete it and write a new one with imp-train"


def save_checkpoint(
    path: str | Path,
    model: ImpNetwork,
    metadata: Mapping[str, object],
    half: bool = False,
) -> Path:
    """Write a model and metadata to a safetensors file, atomically.

    Args:
        path: file to write, with the suffix .safetensors; replaced if it exists.
        model: network to save with its config.
        metadata: JSON-serializable training information (data, license terms, seed, scores).
        half: store matrices and kernels as float16; vectors, statistics and values beyond its range stay
            float32.

    Raises:
        InvalidInput: the suffix is another one, or a weight is not finite: the file could not be read.
        OutputError: the file cannot be written; no partial file remains.
    """
    if Path(path).suffix.lower() != ".safetensors":
        raise InvalidInput(
            f"checkpoint {path}", expected="a file name that ends with .safetensors", got=Path(path).suffix
        )
    tensors = {name: _stored(value, half) for name, value in unwrapped(model.state_dict()).items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InvalidInput(
                f"weights for {path}, tensor {name}", expected="finite values", got="NaN or infinity"
            )
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
    reader = {".safetensors": _read_safetensors, ".pt": _read_pt, ".pth": _read_pt}.get(path.suffix.lower())
    try:
        with open_regular(path, MAX_CHECKPOINT_BYTES) as file:
            if reader is None:
                found = f"suffix {path.suffix!r}"
                raise _invalid(path, "a .safetensors, .pt or .pth file", found, FOREIGN)
            return reader(path, file)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint {path}", expected="an existing file", got="no file", fix="check the path"
        ) from error
    except (OSError, MemoryError) as error:
        got = error.strerror or error if isinstance(error, OSError) else "too little memory for it"
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a readable file",
            got=got,
            fix="check the path and its permissions",
        ) from error


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    if half and value.is_floating_point() and value.ndim >= 2:
        stored = value.half()
        return stored if torch.isfinite(stored).all() else value.clone()
    return value.clone()


def unwrapped(weights: Mapping[Any, Any]) -> dict[Any, Any]:
    """Weights without the prefixes of torch.compile, and of the containers of several GPUs."""
    names = {name: name.replace("_orig_mod.", "") if isinstance(name, str) else name for name in weights}
    if all(isinstance(name, str) and name.startswith("module.") for name in names.values()):
        names = {name: plain.removeprefix("module.") for name, plain in names.items()}
    if len(set(names.values())) < len(names):
        return dict(weights)
    return {names[name]: value for name, value in weights.items()}


def _read_safetensors(path: Path, file: BinaryIO) -> Checkpoint:
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or size > min(MAX_HEADER_BYTES, os.fstat(file.fileno()).st_size):
        raise _invalid(path, "a complete safetensors file", f"a header of {size:,} bytes")
    head = start + file.read(size)
    try:
        header = _object(json.loads(head[8:], object_pairs_hook=unique_keys))
        texts = _object(header.pop("__metadata__", None) or {})
    except (ValueError, TypeError, RecursionError) as error:
        raise _invalid(path, "a complete safetensors file", _line(error)) from error
    if texts.get("format") != FORMAT or texts.get("format_version") != FORMAT_VERSION:
        found = (_line(texts.get(name)) for name in ("format", "format_version"))
        raise _invalid(
            path, f"format {FORMAT} version {FORMAT_VERSION}", "format {} version {}".format(*found), FOREIGN
        )
    try:
        config, metadata = (
            json.loads(texts[name], object_pairs_hook=unique_keys) for name in ("config", "metadata")
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _invalid(path, "JSON config and metadata", _line(error)) from error
    declared = {
        name: (_DTYPES.get(str(entry.get("dtype"))), entry.get("shape"))
        if isinstance(entry, dict)
        else (None, None)
        for name, entry in header.items()
    }
    # Before gigabytes of tensors are read that do not fit the config.
    config = _check_config(path, config, unwrapped(declared))
    data = head + file.read()
    try:
        weights = unwrapped(load(data))
    except (SafetensorError, KeyError, ValueError) as error:
        raise _invalid(path, "a complete safetensors file", _line(error)) from error
    return _checkpoint(path, data, config, metadata, weights)


def _read_pt(path: Path, file: BinaryIO) -> Checkpoint:
    data = file.read()
    check_archive(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various types for a damaged or unsafe file
        if isinstance(error, pickle.UnpicklingError):
            unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"an object of type {unsafe[1]}" if unsafe else "other objects"
            fix = "where the file was written, save the state_dict() of the model instead"
        else:
            what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            fix = _REPLACE_FILE
        raise CheckpointError(
            f"checkpoint {path}", expected="tensors and plain data only", got=what[:300], fix=fix
        ) from error
    if not isinstance(content, dict) or not {"config", "metadata", "weights"} <= set(content):
        raise _invalid(path, "a dictionary with config, metadata and weights", _keys(content), FOREIGN)
    weights = content["weights"]
    if not isinstance(weights, Mapping):
        raise _invalid(path, "weights as a dictionary of tensors", type(weights).__name__)
    weights = unwrapped(weights)
    declared = {
        name: (value.dtype, list(value.shape)) if isinstance(value, Tensor) else (None, type(value).__name__)
        for name, value in weights.items()
    }
    config = _check_config(path, content["config"], declared)
    return _checkpoint(path, data, config, content["metadata"], weights)


def check_archive(path: Path, data: bytes) -> None:
    """Reject archives that are larger unpacked: PyTorch stores its tensors without compression.

    Args:
        path: of the file, for messages.
        data: its content; anything but a zip archive is accepted.

    Raises:
        CheckpointError: the archive is damaged, or far larger unpacked.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise _invalid(path, "a complete .pt file", _line(error)) from error
    if unpacked > len(data) + _MAX_UNPACKED_MORE:
        raise _invalid(path, f"at most {len(data):,} bytes unpacked", f"{unpacked:,} bytes")


_Declared = Mapping[Any, tuple["torch.dtype | None", object]]
"""Type and shape of each tensor as a file states them; None for an unknown type."""


def _check_config(path: Path, data: object, declared: _Declared) -> ModelConfig:
    """The config, if the tensors are those of its network."""
    try:
        config = ModelConfig.from_dict(data)  # type: ignore[arg-type]  # checks that it is a mapping
        with torch.device("meta"):  # sizes only
            expected = ImpNetwork(config).state_dict()
    except (InvalidInput, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise _invalid(path, "a model config of this version", _line(error)) from error
    missing = sorted(set(expected) - set(declared))
    extra = sorted(str(name)[:80] for name in set(declared) - set(expected))
    if missing or extra:
        raise _invalid(
            path,
            f"the {len(expected)} tensors of its config",
            f"{len(missing)} missing {missing[:3]}, {len(extra)} unknown {extra[:3]}",
        )
    for name, (dtype, shape) in declared.items():
        floating = expected[name].is_floating_point()
        if dtype is None or dtype not in (_FLOATS if floating else _INTEGERS):
            kinds = "floating-point numbers" if floating else "integers"
            got = "another type" if dtype is None else str(dtype)
            raise _invalid(path, kinds, got, tensor=name)
        if shape != list(expected[name].shape):
            raise _invalid(path, list(expected[name].shape), _line(shape), tensor=name)
    return config


def _checkpoint(path: Path, data: bytes, config: ModelConfig, metadata: object, weights: Any) -> Checkpoint:
    if not isinstance(metadata, dict):
        raise _invalid(path, "metadata as a dictionary", type(metadata).__name__)
    model = ImpNetwork(config)
    expected = model.state_dict()
    converted = {}
    for name, value in weights.items():
        if value.layout != torch.strided or value.device.type != "cpu":
            kind = value.layout if value.layout != torch.strided else f"one on {value.device.type}"
            raise _invalid(path, "a dense tensor with values", str(kind), tensor=name)
        # Checked after the conversion: 1e300 is finite as float64 only.
        converted[name] = value.to(expected[name].dtype)
        if value.is_floating_point() and not torch.isfinite(converted[name]).all():
            raise _invalid(path, f"finite values in {expected[name].dtype}", "NaN or infinity", tensor=name)
    model.load_state_dict(converted)
    model.eval()
    return Checkpoint(model, metadata, hashlib.sha256(data).hexdigest())


def _invalid(
    path: Path, expected: object, got: object, fix: str = _REPLACE_FILE, tensor: object = None
) -> CheckpointError:
    what = f"checkpoint {path}" if tensor is None else f"checkpoint {path}, tensor {tensor}"
    return CheckpointError(what, expected=expected, got=got, fix=fix)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    return value


def _keys(content: object) -> str:
    """What another program stored, in a line: a dictionary of weights has hundreds of keys."""
    if not isinstance(content, dict):
        return type(content).__name__
    names = [
        str(name)[:40] if isinstance(name, str | int | float) else type(name).__name__ for name in content
    ]
    return f"a dictionary with {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if names[4:] else "")


def _line(value: object) -> str:
    """A value or error of a file as short text; repr() of nested data can be of any length."""
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}"[:300]
    return reprlib.repr(value)[:120]
