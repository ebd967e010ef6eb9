"""TensorRT's IPluginV3 in Python: what is common to all operators.

An operator says what is its own in a `PluginOperator`; `make_creator` turns it into a plugin creator for
`tensorrt` or `tensorrt_rtx`, which have the same object model under two names. The C++ twin of this file is
`tensorrt/plugin.h`: name, version, namespace, fields and serialized bytes are the same.

TensorRT's Python bindings take an exception for a failure: they turn it into the error code that the C++
interface returns, so that none crosses into TensorRT. Each is logged here first, under `imp_trt.plugins`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from imp_trt.cuda.driver import Device
from imp_trt.cuda.kernels import current_device
from imp_trt.cuda.platform import LIBRARY_VARIABLE
from imp_trt.errors import DependencyMissing, DeviceError, ImpTrtError, InvalidInput

VERSION = "1"
NAMESPACE = "imp_trt"
FLOATING = ("f32", "f16", "bf16")

_log = logging.getLogger("imp_trt.plugins")
_ELEMENTS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT32": "i32", "INT64": "i64"}
_KINDS: Mapping[str, tuple[str, Any]] = {"int": ("INT32", np.int32), "float": ("FLOAT32", np.float32)}

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Tensor(NamedTuple):
    """An input of a call: sizes, element type ("f32", "f16", "bf16", "i32", "i64") and address."""

    shape: tuple[int, ...]
    element: str
    pointer: int


@dataclasses.dataclass(frozen=True)
class PluginOperator(ABC):
    """An operator of one output and no workspace.

    A subclass is a dataclass whose fields, in order, are the plugin's: int (INT32), float (FLOAT32) or
    str (CHAR, without a terminating zero). Its ``__post_init__`` refuses values with InvalidInput.
    """

    NAME: ClassVar[str]
    RANKS: ClassVar[tuple[int, ...]]
    """Number of dimensions of each input."""
    OUTPUT_LIKE: ClassVar[int]
    """The input whose type the output has."""

    @staticmethod
    @abstractmethod
    def accepts(position: int, elements: Sequence[str]) -> bool:
        """Whether input number position may have its element type, those before it given."""

    @abstractmethod
    def output_shape(self, inputs: Sequence[Any], builder: ShapeBuilder) -> list[Any]:
        """Sizes of the output, from those of the inputs."""

    @abstractmethod
    def check_shapes(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Refuses input shapes that do not fit each other, with InvalidInput."""

    @staticmethod
    @abstractmethod
    def prepare(device: Device) -> None:
        """Compiles and loads the kernels, which cannot be done while a stream is being captured."""

    @abstractmethod
    def launch(self, inputs: Sequence[Tensor], output: int, stream: int, device: Device) -> None:
        """Enqueues the kernel on the stream and returns; output is the address to write to."""


class ShapeBuilder(NamedTuple):
    """Arithmetic with sizes that TensorRT may not know yet."""

    constant: Callable[[int], Any]
    product: Callable[[Any, Any], Any]


def _reports(method: _Method) -> _Method:
    """Logs whatever a method raises, under its operator's name."""

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any) -> Any:
        try:
            return method(self, *args)
        except Exception as error:
            _log.error("%s.%s: %s", self.operator.NAME, method.__name__, error)
            raise

    return wrapped  # type: ignore[return-value]


def _typed(trt: Any, operator: type[PluginOperator] | PluginOperator) -> list[tuple[str, Any, Any]]:
    """Name, TensorRT's field type and NumPy type (None for text) of each field."""
    listed = []
    for field in dataclasses.fields(operator):
        kind, dtype = _KINDS.get(str(field.type), ("CHAR", None))
        listed.append((field.name, getattr(trt.PluginFieldType, kind), dtype))
    return listed


class Fields:
    """A PluginFieldCollection and the memory it points into."""

    def __init__(self, trt: Any, operator: type[PluginOperator] | PluginOperator) -> None:
        self._parts = []
        for name, kind, dtype in _typed(trt, operator):
            if isinstance(operator, type):  # a declaration cannot know the length of a text
                data = np.zeros(0 if dtype is None else 1, dtype or np.int8)
            elif dtype is None:
                data = np.frombuffer(getattr(operator, name).encode(), np.int8)
            else:
                data = np.array([getattr(operator, name)], dtype)
            self._parts.append((data, trt.PluginField(name, data, kind)))
        self.collection = trt.PluginFieldCollection([field for _, field in self._parts])
        # TensorRT's own type, which points into the collection: the bindings convert a collection only while
        # a function of theirs is being called, and TensorRT also asks for fields from threads of its own.
        self.native = trt.PluginFieldCollection_(self.collection)


def read_fields(trt: Any, operator: type[PluginOperator], collection: Any) -> PluginOperator:
    """The operator that a field collection describes.

    Raises:
        InvalidInput: a field is missing, repeated, or has another type, length or value; it is named.
    """
    values: dict[str, Any] = {}
    for name, kind, dtype in _typed(trt, operator):
        given = [field for field in collection if field.name == name]
        if len(given) != 1:
            raise InvalidInput(
                f"field {name}", got="nothing" if not given else "it twice", expected="it once"
            )
        field = given[0]
        if field.type != kind:
            raise InvalidInput(f"field {name}", expected=kind.name, got=field.type.name)
        if field.size < 1 or (dtype is not None and field.size != 1):
            expected = "text" if dtype is None else "exactly one value"
            raise InvalidInput(f"field {name}", expected=expected, got=f"{field.size} values")
        values[name] = read_text(trt, field) if dtype is None else np.array(field.data).ravel()[0].item()
    return operator(**values)


def read_text(trt: Any, field: Any) -> str:
    """The text of a CHAR field.

    Raises:
        DependencyMissing: these bindings give no text with this NumPy.
    """
    read = _text_reader(trt)
    if read is None:
        raise DependencyMissing(
            f"text of plugin field {field.name}",
            expected="Python bindings of TensorRT that work with the installed NumPy",
            got=f"{trt.__name__} {trt.__version__} with NumPy {np.__version__}",
            fix=f"use NumPy 1.26, or the C++ plugins: build libimp_trt_plugins.so and set {LIBRARY_VARIABLE}",
        )
    # Parsers differ in whether the length counts a terminating zero.
    return read(field).split(b"\0")[0].decode(errors="replace")


@functools.cache
def _text_reader(trt: Any) -> Callable[[Any], bytes] | None:
    """How to read the bytes of a CHAR field: what reads a field made here right.

    The bindings of TensorRT 10.3 to 10.15 were built for NumPy 1. With NumPy 2 their `PluginField.data`
    repeats the first element: b"bbbbbbbb" for b"bilinear". The C++ field behind it is right.
    """
    text = b"two"
    made = trt.PluginField("probe", np.frombuffer(text, np.int8), trt.PluginFieldType.CHAR)
    readers = (_bytes_of_array, _bytes_at_address)
    return next((read for read in readers if read(made) == text), None)


def _bytes_of_array(field: Any) -> bytes:
    return np.array(field.data).tobytes()


class _NativeField(ctypes.Structure):
    """nvinfer1::PluginField; the same in TensorRT 8 to 11."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


def _bytes_at_address(field: Any) -> bytes:
    # In an object of pybind11 the address of the C++ object follows the header that all Python objects have.
    address = ctypes.c_void_p.from_address(id(field) + object.__basicsize__).value
    if not address:
        return b""
    native = _NativeField.from_address(address)
    if (native.type, native.length) != (int(field.type), field.size) or not native.data:
        return b""
    return ctypes.string_at(native.data, native.length)


def describe(operator: PluginOperator) -> str:
    """``name=value name=value``: the creation state, for the timing cache and the engine inspector."""
    values = dataclasses.asdict(operator).items()
    return " ".join(
        f"{name}={value:.9g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
    )


class _Plugin:
    """The methods that TensorRT calls; `_plugin_class` adds the interfaces of one of its modules."""

    trt: Any

    def __init__(self, operator: PluginOperator) -> None:
        for interface in _interfaces(self.trt):
            interface.__init__(self)
        self.operator = operator
        self.fields = Fields(self.trt, operator)
        self.plugin_name, self.plugin_version, self.plugin_namespace = operator.NAME, VERSION, NAMESPACE
        self.num_outputs = 1
        self.timing_cache_id = self.metadata_string = describe(operator)

    def get_capability_interface(self, kind: Any) -> Any:
        return self

    def clone(self) -> Any:
        return type(self)(self.operator)

    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        return [input_types[self.operator.OUTPUT_LIKE]]

    @_reports
    def get_output_shapes(
        self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any
    ) -> list[Any]:
        self._check_ranks([len(dims) for dims in inputs])
        product = functools.partial(builder.operation, self.trt.DimensionOperation.PROD)
        sizes = self.operator.output_shape(inputs, ShapeBuilder(builder.constant, product))
        shape = self.trt.DimsExprs(len(sizes))
        for axis, size in enumerate(sizes):
            shape[axis] = size
        return [shape]

    @_reports
    def supports_format_combination(self, pos: int, in_out: Sequence[Any], num_inputs: int) -> bool:
        descs = [dynamic.desc for dynamic in in_out[: pos + 1]]
        if num_inputs != len(self.operator.RANKS) or descs[pos].format != self.trt.TensorFormat.LINEAR:
            return False
        if pos == num_inputs:
            return bool(descs[pos].type == descs[self.operator.OUTPUT_LIKE].type)
        return self.operator.accepts(pos, [self._element(desc.type) for desc in descs])

    @_reports
    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self._check_ranks([len(dynamic.desc.dims) for dynamic in inputs])

    @_reports
    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        self._check_ranks([len(desc.dims) for desc in inputs])
        self.operator.check_shapes([tuple(desc.dims) for desc in inputs])
        try:
            device = current_device()
        except (DependencyMissing, DeviceError):  # engines are also built where there is no GPU
            _log.debug("%s: no GPU, kernels are not prepared", self.operator.NAME)
        else:
            self.operator.prepare(device)

    def set_tactic(self, tactic: int) -> None:
        """There is one way to run the kernels; the bindings want the method all the same."""

    @_reports
    def attach_to_context(self, context: Any) -> Any:
        self.operator.prepare(current_device())
        return self.clone()

    @_reports
    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        pairs = zip(input_desc, inputs, strict=True)
        tensors = [Tensor(tuple(desc.dims), self._element(desc.type), pointer) for desc, pointer in pairs]
        self.operator.launch(tensors, outputs[0], stream, current_device())

    def get_fields_to_serialize(self) -> Any:
        return self.fields.native

    def _check_ranks(self, ranks: list[int]) -> None:
        if tuple(ranks) != self.operator.RANKS:
            raise InvalidInput("number of dimensions of the inputs", expected=self.operator.RANKS, got=ranks)

    def _element(self, data_type: Any) -> str:
        return _ELEMENTS.get(data_type.name, str(data_type.name))


class _Creator:
    """The methods TensorRT calls; see `_Plugin`."""

    trt: Any

    def __init__(self, operator: type[PluginOperator]) -> None:
        self.trt.IPluginCreatorV3One.__init__(self)
        self.operator = operator
        self.name, self.plugin_version, self.plugin_namespace = operator.NAME, VERSION, NAMESPACE
        self.fields = Fields(self.trt, operator)
        self.field_names = self.fields.collection

    def create_plugin(self, name: str, collection: Any, phase: Any) -> Any:
        try:
            return _plugin_class(self.trt)(read_fields(self.trt, self.operator, collection))
        except ImpTrtError as error:
            _log.error("%s: %s", self.operator.NAME, error)
            return None


def _interfaces(trt: Any) -> tuple[Any, ...]:
    return trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime


@functools.cache
def _plugin_class(trt: Any) -> Any:
    return type("Plugin", (_Plugin, *_interfaces(trt)), {"trt": trt})


@functools.cache
def _creator_class(trt: Any) -> Any:
    return type("Creator", (_Creator, trt.IPluginCreatorV3One), {"trt": trt})


def make_creator(trt: Any, operator: type[PluginOperator]) -> Any:
    """A plugin creator of an operator for ``trt``, the module ``tensorrt`` or ``tensorrt_rtx``."""
    return _creator_class(trt)(operator)
