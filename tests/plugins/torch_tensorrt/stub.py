# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for torch_tensorrt and tensorrt, as far as register_converters touches them.

The parameters of the functions are those of torch-tensorrt 2.13.0 and 2.14.0, read in the wheels'
torch_tensorrt/dynamo/conversion/_ConverterRegistry.py and converter_utils.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any


class ConverterPriority(Enum):
    """Order of converters of one operator."""

    STANDARD = auto()
    HIGH = auto()


class Registry(dict[Any, list[SimpleNamespace]]):
    """Operator -> its converters, filled by the decorator."""

    def dynamo_tensorrt_converter(
        self,
        key: Any,
        *,
        enabled: bool = True,
        capability_validator: Callable[[Any, Any], bool] | None = None,
        priority: ConverterPriority = ConverterPriority.STANDARD,
        supports_dynamic_shapes: bool = False,
        requires_output_allocator: bool = False,
        requires_native_multidevice: bool = False,
    ) -> Callable[[Any], Any]:
        """The decorator of converters."""

        def register(converter: Any) -> Any:
            support = SimpleNamespace(
                implementation=converter,
                validator=capability_validator,
                supports_dynamic_shapes=supports_dynamic_shapes,
                requires_output_allocator=requires_output_allocator,
            )
            if enabled:
                self.setdefault(key, []).append(support)
            return converter

        return register


class Constant(SimpleNamespace):
    """A tensor of a network that was made of a value."""


def get_trt_tensor(
    ctx: Any,
    input_val: Any,
    name: str,
    dtype: Any = None,
    min_rank: int = 1,
    target_quantized_type: Any = None,
) -> Any:
    """Tensors of the network pass, anything else becomes a constant."""
    if isinstance(input_val, Tensor):
        return input_val
    return Constant(value=input_val, name=name, dtype=dtype)


def torch_tensorrt(registry: Registry) -> dict[str, ModuleType]:
    """The modules of Torch-TensorRT, by name."""
    names = ("torch_tensorrt", "torch_tensorrt.dynamo", "torch_tensorrt.dynamo.conversion")
    modules = {name: ModuleType(name) for name in (*names, f"{names[-1]}.converter_utils")}
    modules[names[-1]].dynamo_tensorrt_converter = registry.dynamo_tensorrt_converter  # type: ignore[attr-defined]
    modules[f"{names[-1]}.converter_utils"].get_trt_tensor = get_trt_tensor  # type: ignore[attr-defined]
    return modules


class Tensor:
    """A tensor of the network."""

    def __init__(self, name: str, dtype: Any) -> None:
        self.name, self.dtype = name, dtype


class Layer:
    """A layer with one output."""

    def __init__(self, kind: str, inputs: list[Any], dtype: Any, detail: Any) -> None:
        self.kind, self.inputs, self.detail, self.name = kind, inputs, detail, ""
        self.output = Tensor(f"{kind} output", dtype)

    def get_output(self, index: int) -> Tensor:
        assert index == 0
        return self.output


class Network:
    """The two methods of INetworkDefinition that converters call, with TensorRT's parameters."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def add_plugin_v3(self, inputs: list[Any], shape_inputs: list[Any], plugin: Any) -> Layer:
        assert shape_inputs == []
        self.layers.append(Layer("plugin", inputs, None, plugin))
        return self.layers[-1]

    def add_cast(self, input: Any, to_type: Any) -> Layer:
        self.layers.append(Layer("cast", [input], to_type, None))
        return self.layers[-1]


def tensorrt(real: ModuleType) -> ModuleType:
    """tensorrt_rtx under the name of tensorrt, with a network that takes plugins."""
    module = ModuleType("tensorrt")
    module.__dict__.update({k: v for k, v in vars(real).items() if not k.startswith("__")})
    module.__spec__ = ModuleSpec("tensorrt", None)  # PyTorch's compiler asks for it
    module.__version__ = "11.0.0"  # type: ignore[attr-defined]
    module.INetworkDefinition = Network  # type: ignore[attr-defined]
    return module


def context() -> Any:
    """A ConversionContext: converters use its network."""
    return SimpleNamespace(net=Network())


def call(support: Any, ctx: Any, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A converter, called as Torch-TensorRT's interpreter does."""
    return support.implementation(ctx, target, args, dict(kwargs), "node_1")
