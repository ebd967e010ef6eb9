# SPDX-License-Identifier: Apache-2.0
"""Tensors of .pth, .pt, .pkl and .safetensors files. Nothing in a file is executed.

Pickles name classes and functions to call. Here only those that build tensors and containers can be called;
every other name becomes an inert object, so that a training configuration stored next to the weights does not
keep a file from being read. NumPy's own classes are not called either: an array of objects over bytes of the
file takes them for addresses.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from imp_trt.data.files import read_regular
from imp_trt.errors import CheckpointError

_log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")

MAX_BYTES = 4 << 30
"""Largest file; a ResNeXt-101 Mask R-CNN with the state of its optimizer has 1 GB."""

_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "weights", "network")
_MAX_AXES = 32
_PREFIXES = ("module.", "_orig_mod.", "model.")
# torch.load hands a zip archive with such an entry to torch.jit.load. Names of entries are not compressed;
# all bytes are searched, since readers of zip archives differ in which entries they see.
_TORCHSCRIPT = b"constants.pkl"
_OF_TORCH = "if torch.save wrote it, rename it to .pth"
_FIXES = {
    ".onnx": "an ONNX file needs no import: imp-export FILE.onnx",
    **dict.fromkeys((".ckpt", ".bin", ".tar"), _OF_TORCH),
}
"""What to do with files of other suffixes."""
_COPY_AGAIN = "copy or download the file again"


@dataclass(frozen=True, eq=False)
class ForeignCheckpoint:
    """Content of a checkpoint of another code base.

    Attributes:
        path: the file.
        tensors: name -> tensor, on the CPU, of the dtype in the file.
        classes: class names in the order of the file, if it has any.
        settings: text of the training configuration that mmdetection stores; empty without one.
    """

    path: Path
    tensors: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    settings: str = ""


def read_foreign(path: str | Path) -> ForeignCheckpoint:
    """Read the tensors of a file.

    Dictionaries around the weights ({"model": ...}, {"state_dict": ...}) and prefixes of all names
    (``module.``) are removed. Other weights next to them, such as a moving average, are logged.

    Raises:
        CheckpointError: the file is missing, damaged, of another type, has no named tensors, or has arrays of
            objects or records.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"a file that ends with {', '.join(SUFFIXES)}",
            got=suffix or "no suffix",
            fix=_FIXES.get(
                suffix,
                "save the network's tensors where it runs: torch.save(model.state_dict(), 'model.pth')",
            ),
        )
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path}",
            expected=f"a readable file of at most {MAX_BYTES >> 30} GiB",
            got=error.strerror or error,
            fix="check the path",
        ) from error
    try:
        if suffix == ".safetensors":
            content: Any = load_safetensors(data)
        elif _is_zip(data) or suffix != ".pkl":
            content = _load_torch(path, data)
        else:
            content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        tensors = _strip_prefix(_tensors(path, content))
        _report_others(path, content, len(tensors))
    except CheckpointError:
        raise
    except _UnsupportedArray as error:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="arrays of numbers or text",
            got=error,
            fix="save the model's tensors alone, as arrays of numbers",
        ) from error
    except (Exception, RecursionError) as error:  # a damaged file raises errors of many types
        text = str(error).splitlines()[0][:200] if str(error) else ""
        raise CheckpointError(
            f"checkpoint {path}",
            expected="a complete file of tensors",
            got=f"{type(error).__name__}: {text}",
            fix=_COPY_AGAIN,
        ) from error
    meta = content.get("meta") if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    return ForeignCheckpoint(path, tensors, _classes(meta), _settings(meta))


def _is_zip(data: bytes) -> bool:
    return data.startswith(b"PK\x03\x04")


def _load_torch(path: Path, data: bytes) -> object:
    if _is_zip(data):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        # PyTorch stores tensors uncompressed.
        if unpacked > len(data) + (1 << 20):
            raise CheckpointError(
                f"checkpoint {path}",
                expected="an archive of uncompressed tensors, as torch.save writes it",
                got=f"{len(data)} bytes that unpack to {unpacked}",
                fix="write it again with torch.save",
            )
    if _TORCHSCRIPT in data:
        raise CheckpointError(
            f"checkpoint {path}",
            expected="tensors, as torch.save writes them",
            got="a TorchScript archive, whose code runs while it is loaded",
            fix="if you know its origin: torch.save(torch.jit.load(FILE).state_dict(), 'model.pth')",
        )
    # weights_only=True would reject files with a training configuration. The unpickler below is as strict
    # about what it calls, and passes over the rest.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=_PICKLE)


class _Inert:
    """Stands for an object of a class that is not loaded; takes and ignores everything."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        return self


_CONTAINERS = {"set": set, "frozenset": frozenset, "dict": dict, "list": list, "tuple": tuple}
_NUMPY_MODULES = tuple(
    f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")
)
_TORCH_NAMES = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")


class _UnsupportedArray(pickle.UnpicklingError):
    """An array, or its dtype, that is not made from a file."""


class _Dtype:
    """Stands for numpy.dtype in a pickle: numbers and text of a fixed length."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        if not isinstance(code, str) or not re.fullmatch("[fiubcSU][0-9]{1,9}", code):
            raise _UnsupportedArray(f"dtype {code!r:.80}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Version, byte order, subarray, names, fields, and sizes that follow from the code."""
        _, order, *parts = state[:5]
        if order not in ("<", ">", "|", "=") or parts != [None, None, None]:
            raise _UnsupportedArray(f"dtype with {state!r:.80}")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray in a pickle.

    Attributes:
        values: the array, in C order and native byte order; None before it is complete.
    """

    values: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _values(shape, dtype, data, "F" if fortran else "C")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _Array or shape != (0,) or code not in (b"b", "b"):
        raise _UnsupportedArray("a subclass of numpy.ndarray")
    return _Array()


def _frombuffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.values = _values(shape, dtype, data, "F" if order == "F" else "C")
    return array


def _scalar(dtype: object, data: object) -> object:
    return _values((), dtype, data, "C").item()


def _values(shape: object, dtype: object, data: object, order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype):
        raise _UnsupportedArray("a dtype that is none of NumPy's numbers and text")
    if isinstance(data, str):  # the bytes of Python 2
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise _UnsupportedArray(f"values as {type(data).__name__}")
    if not isinstance(shape, tuple) or len(shape) > _MAX_AXES or not all(map(_is_length, shape)):
        raise pickle.UnpicklingError(f"an array of shape {shape!r:.80}")
    size = math.prod(shape) * dtype.dtype.itemsize
    if size != len(data):
        raise pickle.UnpicklingError(f"{len(data)} bytes for an array of {size}")
    stored = np.ndarray(shape, dtype.dtype, data, order=order)
    values: np.ndarray[Any, Any] = stored.astype(dtype.dtype.newbyteorder("="), order="C")
    return values  # a copy: tensors are writable


def _is_length(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_BYTES


_NUMPY_CLASSES = {"ndarray": _Array, "dtype": _Dtype}
_NUMPY_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_reconstruct": _reconstruct,
    "_frombuffer": _frombuffer,
    "scalar": _scalar,
}


class _Unpickler(pickle.Unpickler):
    """Calls only what builds tensors, arrays and containers."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return _CONTAINERS[name]
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _guarded(_no_bytes)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):  # bytes in pickles of protocol 2
            return _guarded(_encode)
        if module == "torch._utils" and name in _TORCH_NAMES:
            return _guarded(getattr(import_module("torch._utils"), name))
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if module in _NUMPY_MODULES and name in _NUMPY_FUNCTIONS:
            return _guarded(_NUMPY_FUNCTIONS[name])
        if module == "numpy" and name in _NUMPY_CLASSES:
            return _NUMPY_CLASSES[name]
        return type("_Inert", (_Inert,), {})


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a new object: a pickle may set attributes of whatever it can name."""
    return lambda *arguments: function(*arguments)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode(encoding)


def _no_bytes(*arguments: object) -> object:
    """The data of an array without elements in pickles of protocol 2; bytes(n) could be of any size."""
    return _Inert() if arguments else b""


def _load(file: BinaryIO, **options: Any) -> object:
    options.pop("fix_imports", None)
    return _Unpickler(file, **options).load()


_PICKLE = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="pickle")


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    """The named tensors of a file, below at most two of the usual dictionaries around them."""
    found = _found(content, 2)
    if found:
        return found
    raise CheckpointError(
        f"checkpoint {path}",
        expected=f"named tensors, or a dictionary with one of {', '.join(_WRAPPERS)}",
        got="none" if not isinstance(content, Mapping) else f"keys {sorted(map(str, content))[:5]}",
        fix="save the model's state_dict()",
    )


def _found(content: object, depth: int) -> dict[str, Tensor]:
    """Named tensors, those in a dictionary of weights before others next to it, such as the last loss."""
    if not isinstance(content, Mapping):
        return {}
    for inner in (content[name] for name in _WRAPPERS if depth and name in content):
        if found := _found(inner, depth - 1):
            return found
    values = ((name, _tensor(value)) for name, value in content.items())
    return {str(name): value for name, value in values if value is not None}


def _report_others(path: Path, content: object, count: int) -> None:
    """Warn of weights next to those that are taken, such as their moving average."""
    if not isinstance(content, Mapping):
        return
    taken = next((name for name in _WRAPPERS if name in content and _found(content[name], 1)), None)
    rest = [str(name) for name, value in content.items() if name != taken]
    others = [name for name in rest if taken and 2 * len(_found(content.get(name), 1)) >= count]
    if others:
        _log.warning(
            "%s: the weights of %r are taken, not those of %s; torch.save(torch.load(FILE)[%r], 'other.pth') "
            "writes these",
            *(path, taken, ", ".join(map(repr, others)), others[0]),
        )


def _tensor(value: object) -> Tensor | None:
    """A tensor or an array of numbers as a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, _Array) and value.values is not None and value.values.dtype.kind in "fiub":
        return torch.from_numpy(value.values)
    return None


def _strip_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    changed = True
    while changed:
        changed = False
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
                changed = True
    return tensors


def _settings(meta: Mapping[str, Any]) -> str:
    """The configuration as mmdetection stores it: meta.config, or meta.cfg."""
    return next((meta[name] for name in ("config", "cfg") if isinstance(meta.get(name), str)), "")


def _classes(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names as mmdetection stores them: meta.CLASSES, or meta.dataset_meta.classes."""
    inner = meta.get("dataset_meta")
    names = meta.get("CLASSES")
    if names is None and isinstance(inner, Mapping):
        names = inner.get("classes", inner.get("CLASSES"))
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()
