# SPDX-License-Identifier: Apache-2.0
"""TensorRT's IPluginV3 in Python: the part that is common to all operators.

An operator derives from `PluginOperator`; `make_creator` makes a plugin creator of it for `tensorrt` or
`tensorrt_rtx`, which have the same classes. The C++ implementation is `tensorrt/plugin.h`: name, version,
namespace, fields and serialized bytes are the same.

TensorRT's Python bindings catch exceptions and return the error code of the C++ interface, so that no
exception reaches TensorRT. Each exception is logged here first, under `imp_trt.plugins`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from imp_trt.cuda.driver import Device
from imp_trt.cuda.kernels import current_device
from imp_trt.cuda.platform import LIBRARY_VARIABLE
from imp_trt.errors import DependencyMissing, DeviceError, ImpTrtError, InvalidInput
from imp_trt.plugins.tensorrt_types import (
    DimsExprs,
    DynamicPluginTensorDesc,
    IDimensionExpr,
    IExprBuilder,
    Member,
    PluginField,
    PluginFieldCollection,
    PluginTensorDesc,
    TensorRT,
)

VERSION = "1"
NAMESPACE = "imp_trt"
FLOATING = ("f32", "f16", "bf16")
"""Element types of features and masks."""

_log = logging.getLogger("imp_trt.plugins")
_ELEMENTS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT32": "i32", "INT64": "i64"}
_FIELD_TYPES: Mapping[str, tuple[str, type[np.generic]]] = {
    "int": ("INT32", np.int32),
    "float": ("FLOAT32", np.float32),
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Tensor(NamedTuple):
    """An input of a call: shape, element type ("f32", "f16", "bf16", "i32", "i64"), address and layout."""

    shape: tuple[int, ...]
    element: str
    pointer: int
    layout: str = "LINEAR"  # a name of TensorRT's TensorFormat; sizes are the same in all


@dataclasses.dataclass(frozen=True)
class PluginOperator(ABC):
    """An operator with one output and no workspace.

    A subclass is a dataclass whose fields are the plugin's, in order: int (INT32), float (FLOAT32) or
    str (CHAR, without a terminating zero). One with a default may be missing: engines and files of earlier
    versions do not have it. Its ``__post_init__`` raises InvalidInput for invalid values.
    """

    NAME: ClassVar[str]
    RANKS: ClassVar[tuple[int, ...]]
    """Rank of each input."""
    OUTPUT_LIKE: ClassVar[int]
    """Index of the input whose type the output has."""

    @staticmethod
    @abstractmethod
    def accepts(position: int, elements: Sequence[str]) -> bool:
        """Whether the input at this position may have its element type, given those before it."""

    @staticmethod
    def accepts_layout(position: int, elements: Sequence[str], layouts: Sequence[str]) -> bool:
        """Whether the input at this position may have its layout, given those before it."""
        return layouts[position] == "LINEAR"

    @abstractmethod
    def output_shape(self, inputs: Sequence[DimsExprs], builder: ShapeBuilder) -> list[IDimensionExpr]:
        """Shape of the output, from those of the inputs."""

    @abstractmethod
    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Raises InvalidInput for input shapes that do not match each other."""

    @abstractmethod
    def prepare(self, device: Device, elements: Sequence[str] | None) -> None:
        """Compiles and loads the kernels, which cannot be done while a stream is being captured.

        elements: types of the inputs, None if they are not known yet.
        """

    @staticmethod
    @abstractmethod
    def try_kernels(device: Device) -> None:
        """Compiles and loads one variant of the kernels, to find out whether that is possible."""

    @abstractmethod
    def launch(self, inputs: Sequence[Tensor], output: int, stream: int, device: Device) -> None:
        """Enqueues the kernel on the stream; output is the device address of the output."""


class ShapeBuilder(NamedTuple):
    """Arithmetic with sizes that TensorRT may not know yet."""

    constant: Callable[[int], IDimensionExpr]
    product: Callable[[IDimensionExpr, IDimensionExpr], IDimensionExpr]


def _logs_errors(
    method: Callable[Concatenate[_Plugin, _P], _R],
) -> Callable[Concatenate[_Plugin, _P], _R]:
    """Logs the exceptions of a method, with its operator's name."""

    @functools.wraps(method)
    def wrapped(self: _Plugin, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            _log.error("%s.%s: %s", self.operator.NAME, method.__name__, error)
            raise

    return wrapped


def _field_types(
    trt: TensorRT, operator: type[PluginOperator] | PluginOperator
) -> list[tuple[str, Member, type[np.generic] | None]]:
    """Name, TensorRT's field type and NumPy type (None for text) of each field."""
    listed = []
    for field in dataclasses.fields(operator):
        kind, dtype = _FIELD_TYPES.get(str(field.type), ("CHAR", None))
        listed.append((field.name, getattr(trt.PluginFieldType, kind), dtype))
    return listed


class Fields:
    """A PluginFieldCollection and the memory that it points to.

    Those of an operator lack the fields with a default that have it: an engine without them can also be
    loaded by an earlier version.
    """

    def __init__(self, trt: TensorRT, operator: type[PluginOperator] | PluginOperator) -> None:
        self._parts = []
        defaults = {field.name: field.default for field in dataclasses.fields(operator)}
        for name, kind, dtype in _field_types(trt, operator):
            data: NDArray[np.generic]
            if not isinstance(operator, type) and getattr(operator, name) == defaults[name]:
                continue
            if isinstance(operator, type):  # a declaration: the length of a text is unknown
                data = np.zeros(0 if dtype is None else 1, dtype or np.int8)
            elif dtype is None:
                data = np.frombuffer(getattr(operator, name).encode(), np.int8)
            else:
                data = np.array([getattr(operator, name)], dtype)
            self._parts.append((data, trt.PluginField(name, data, kind)))
        self.collection = trt.PluginFieldCollection([field for _, field in self._parts])
        # TensorRT's own type, which points to the collection: the bindings convert a collection only during a
        # call of theirs, and TensorRT also reads fields from its own threads.
        self.native = trt.PluginFieldCollection_(self.collection)


def read_fields(
    trt: TensorRT, operator: type[PluginOperator], collection: PluginFieldCollection
) -> PluginOperator:
    """The operator with the values of a field collection.

    Raises:
        InvalidInput: a field is missing, repeated, or has another type, length or value; names the field.
    """
    values: dict[str, object] = {}
    optional = {f.name for f in dataclasses.fields(operator) if f.default is not dataclasses.MISSING}
    for name, kind, dtype in _field_types(trt, operator):
        fields = [field for field in collection if field.name == name]
        if not fields and name in optional:
            continue
        if len(fields) != 1:
            raise InvalidInput(f"field {name}", got=f"{len(fields)} of this name", expected="exactly one")
        field = fields[0]
        if field.type != kind:
            raise InvalidInput(f"field {name}", expected=kind.name, got=field.type.name)
        if field.size < 1 or (dtype is not None and field.size != 1):
            expected = "text" if dtype is None else "exactly one value"
            raise InvalidInput(f"field {name}", expected=expected, got=f"{field.size} values")
        values[name] = read_text(trt, field) if dtype is None else np.array(field.data).ravel()[0].item()
    return operator(**values)


def read_text(trt: TensorRT, field: PluginField) -> str:
    """The text of a CHAR field.

    Raises:
        DependencyMissing: these bindings cannot read text with this NumPy.
    """
    read = _text_reader(trt)
    if read is None:
        raise DependencyMissing(
            f"text of plugin field {field.name}",
            expected="Python bindings of TensorRT that work with the installed NumPy",
            got=f"{trt.__name__} {trt.__version__} with NumPy {np.__version__}",
            fix=f"use NumPy 1.26, or the C++ plugins: build libimp_trt_plugins.so and set {LIBRARY_VARIABLE}",
        )
    # In some parsers the length includes a terminating zero.
    return read(field).split(b"\0")[0].decode(errors="replace")


@functools.cache
def _text_reader(trt: TensorRT) -> Callable[[PluginField], bytes] | None:
    """The function that reads the bytes of a CHAR field correctly, tested with a field made here.

    The bindings of TensorRT 10.3 to 10.15 were built for NumPy 1. With NumPy 2 their `PluginField.data`
    repeats the first element: b"bbbbbbbb" for b"bilinear". The C++ field below it is correct.
    """
    text = b"two"
    probe = trt.PluginField("probe", np.frombuffer(text, np.int8), trt.PluginFieldType.CHAR)
    readers = (_bytes_of_array, _bytes_at_address)
    return next((read for read in readers if read(probe) == text), None)


def _bytes_of_array(field: PluginField) -> bytes:
    return np.array(field.data).tobytes()


class _NativeField(ctypes.Structure):
    """nvinfer1::PluginField; the same in TensorRT 8 to 11."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


def _bytes_at_address(field: PluginField) -> bytes:
    # In a pybind11 object the address of the C++ object follows the header of all Python objects.
    address = ctypes.c_void_p.from_address(id(field) + object.__basicsize__).value
    if not address:
        return b""
    native = _NativeField.from_address(address)
    if (native.type, native.length) != (int(field.type), field.size) or not native.data:
        return b""
    return ctypes.string_at(native.data, native.length)


def describe(operator: PluginOperator) -> str:
    """``name=value name=value``: the attributes, for the timing cache and the engine inspector."""
    values = dataclasses.asdict(operator).items()
    return " ".join(
        f"{name}={value:.9g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
    )


class _Plugin:
    """The methods that TensorRT calls; `_plugin_class` adds the interfaces of one of its modules."""

    trt: TensorRT

    def __init__(self, operator: PluginOperator) -> None:
        for interface in _interfaces(self.trt):
            interface.__init__(self)
        self.operator = operator
        self.fields = Fields(self.trt, operator)
        self.plugin_name, self.plugin_version, self.plugin_namespace = operator.NAME, VERSION, NAMESPACE
        self.num_outputs = 1
        self.timing_cache_id = self.metadata_string = describe(operator)

    def get_capability_interface(self, kind: Member) -> _Plugin:
        return self

    def clone(self) -> _Plugin:
        return type(self)(self.operator)

    def get_output_data_types(self, input_types: Sequence[Member]) -> list[Member]:
        return [input_types[self.operator.OUTPUT_LIKE]]

    @_logs_errors
    def get_output_shapes(
        self, inputs: Sequence[DimsExprs], shape_inputs: Sequence[DimsExprs], builder: IExprBuilder
    ) -> list[DimsExprs]:
        self._check_ranks([len(dims) for dims in inputs])
        product = functools.partial(builder.operation, self.trt.DimensionOperation.PROD)
        sizes = self.operator.output_shape(inputs, ShapeBuilder(builder.constant, product))
        shape = self.trt.DimsExprs(len(sizes))
        for axis, size in enumerate(sizes):
            shape[axis] = size
        return [shape]

    @_logs_errors
    def supports_format_combination(
        self, pos: int, in_out: Sequence[DynamicPluginTensorDesc], num_inputs: int
    ) -> bool:
        descs = [dynamic.desc for dynamic in in_out[: pos + 1]]
        if num_inputs != len(self.operator.RANKS):
            return False
        layouts = [desc.format.name for desc in descs]
        if pos == num_inputs:
            like = descs[self.operator.OUTPUT_LIKE]
            return bool(descs[pos].type == like.type and layouts[pos] == "LINEAR")
        elements = [self._element(desc.type) for desc in descs]
        return self.operator.accepts(pos, elements) and self.operator.accepts_layout(pos, elements, layouts)

    @_logs_errors
    def configure_plugin(
        self, inputs: Sequence[DynamicPluginTensorDesc], outputs: Sequence[DynamicPluginTensorDesc]
    ) -> None:
        self._check_ranks([len(dynamic.desc.dims) for dynamic in inputs])

    @_logs_errors
    def on_shape_change(
        self, inputs: Sequence[PluginTensorDesc], outputs: Sequence[PluginTensorDesc]
    ) -> None:
        self._check_ranks([len(desc.dims) for desc in inputs])
        self.operator.check_shapes([tuple(desc.dims) for desc in inputs])
        try:
            device = current_device()
        except (DependencyMissing, DeviceError):  # engines are also built without a GPU
            _log.debug("%s: no GPU, kernels are not prepared", self.operator.NAME)
        else:
            self.operator.prepare(device, [self._element(desc.type) for desc in inputs])

    def set_tactic(self, tactic: int) -> None:
        """Does nothing, there is one tactic; the bindings require the method."""

    @_logs_errors
    def attach_to_context(self, context: object) -> _Plugin:
        self.operator.prepare(current_device(), None)
        return self.clone()

    @_logs_errors
    def enqueue(
        self,
        input_desc: Sequence[PluginTensorDesc],
        output_desc: Sequence[PluginTensorDesc],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        pairs = zip(input_desc, inputs, strict=True)
        tensors = [
            Tensor(tuple(desc.dims), self._element(desc.type), pointer, desc.format.name)
            for desc, pointer in pairs
        ]
        self.operator.launch(tensors, outputs[0], stream, current_device())

    def get_fields_to_serialize(self) -> object:
        return self.fields.native

    def _check_ranks(self, ranks: list[int]) -> None:
        if tuple(ranks) != self.operator.RANKS:
            raise InvalidInput("ranks of the inputs", expected=self.operator.RANKS, got=ranks)

    def _element(self, data_type: Member) -> str:
        return _ELEMENTS.get(data_type.name, data_type.name)


class _Creator:
    """The methods that TensorRT calls; see `_Plugin`."""

    trt: TensorRT

    def __init__(self, operator: type[PluginOperator]) -> None:
        self.trt.IPluginCreatorV3One.__init__(self)
        self.operator = operator
        self.name, self.plugin_version, self.plugin_namespace = operator.NAME, VERSION, NAMESPACE
        self.fields = Fields(self.trt, operator)
        self.field_names = self.fields.collection

    def create_plugin(self, name: str, collection: PluginFieldCollection, phase: Member) -> _Plugin | None:
        try:
            return _plugin_class(self.trt)(read_fields(self.trt, self.operator, collection))
        except ImpTrtError as error:
            _log.error("%s: %s", self.operator.NAME, error)
            return None


def _interfaces(trt: TensorRT) -> tuple[Any, ...]:
    return trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime


@functools.cache
def _plugin_class(trt: TensorRT) -> type[_Plugin]:
    return type("Plugin", (_Plugin, *_interfaces(trt)), {"trt": trt})


@functools.cache
def _creator_class(trt: TensorRT) -> type[_Creator]:
    return type("Creator", (_Creator, trt.IPluginCreatorV3One), {"trt": trt})


def make_creator(trt: TensorRT, operator: type[PluginOperator]) -> object:
    """A plugin creator of an operator for ``trt``, the module ``tensorrt`` or ``tensorrt_rtx``."""
    return _creator_class(trt)(operator)
