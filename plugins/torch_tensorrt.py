# SPDX-License-Identifier: Apache-2.0
"""Converters for Torch-TensorRT: `torch_tensorrt.compile` uses the plugins for the operators of imp_trt.

    import torch_tensorrt
    from imp_trt.plugins.torch_tensorrt import register_converters

    register_converters()
    compiled = torch_tensorrt.compile(model, ir="dynamo", inputs=[frame])

Without them the operators run in PyTorch, between two engines. A process that only loads a compiled model
must also call register_converters first: the engine in it needs the plugins.

UNVERIFIED: compiling a model this way has not been run; samples/on_target does it where Torch-TensorRT is
installed. The registration is tested with a stub that has the parameters of the real decorator, and the
plugin is created by the real registry of TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from imp_trt.errors import BuildError, DependencyMissing

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.fx import Node

    from imp_trt.plugins.python_plugin import PluginOperator
    from imp_trt.plugins.tensorrt_types import INetworkDefinition, IPluginV3, ITensor, TensorRT

INSTALL = "pip install 'imp-trt[torch-tensorrt]'"
READ_VERSIONS = ("2.13.0", "2.14.0")
"""Releases of torch-tensorrt against whose source the calls below were checked. The converter registries of
both, loaded without the rest, accepted the converters and found them for nodes of torch.export."""

_TORCH_OPS = {
    "InstanceMaskProjection": "instance_mask_projection",
    "ImpMultilevelRoiAlign": "multilevel_roi_align",
}
_FLOAT32_INPUTS = ("boxes", "scores")  # the plugin requires it; in PyTorch the operator converts them
_registered: set[str] = set()


class _ConversionContext(Protocol):
    """Torch-TensorRT's ConversionContext."""

    net: INetworkDefinition


_Decorator = Callable[..., Callable[[Callable[..., "ITensor"]], object]]
_ToTensor = Callable[[_ConversionContext, object, str], "ITensor"]


def register_converters(library: Path | None = None) -> None:
    """Register the converters of imp_trt's operators in Torch-TensorRT, for this process; idempotent.

    Args:
        library: the C++ plugin library; None takes $IMP_TRT_PLUGIN_LIBRARY, else the Python plugins.

    Raises:
        DependencyMissing: torch-tensorrt or its TensorRT is missing or has an unknown interface.
        EngineIncompatible, UsageError: see :func:`imp_trt.plugins.registration.register_plugins`.
    """
    decorator, to_tensor = _interface()
    trt = _tensorrt()
    from imp_trt.plugins.registration import operators, register_plugins

    register_plugins(trt, library)
    for operator in operators():
        if operator.NAME not in _registered:
            op = _torch_op(operator.NAME)
            # No dynamic shapes: the canvas has the size with which the network was traced.
            register = decorator(op, capability_validator=_validator(op), supports_dynamic_shapes=False)
            register(_converter(trt, op, operator, to_tensor))
            _registered.add(operator.NAME)


def _interface() -> tuple[_Decorator, _ToTensor]:
    """Torch-TensorRT's decorator for converters, and its function that converts an argument to a tensor."""
    try:
        conversion = import_module("torch_tensorrt.dynamo.conversion")
        utilities = import_module("torch_tensorrt.dynamo.conversion.converter_utils")
    except Exception as error:  # it raises plain Exception if TensorRT is missing
        raise DependencyMissing(
            "Torch-TensorRT cannot be imported", got=" ".join(str(error).split()), fix=INSTALL
        ) from error
    try:
        return conversion.dynamo_tensorrt_converter, utilities.get_trt_tensor
    except AttributeError as error:
        raise DependencyMissing(
            "Torch-TensorRT has an unknown interface",
            expected=f"torch-tensorrt {' or '.join(READ_VERSIONS)}",
            got=f"{_version()}: {error}",
            fix=INSTALL,
        ) from error


def _tensorrt() -> TensorRT:
    # Torch-TensorRT for RTX replaces tensorrt by tensorrt_rtx, whose Python networks do not support plugins.
    trt: Any = import_module("tensorrt")  # no type information
    if not hasattr(trt.INetworkDefinition, "add_plugin_v3"):
        raise DependencyMissing(
            "the TensorRT of Torch-TensorRT",
            expected="tensorrt, whose Python networks support plugins",
            got=f"{trt.__name__} {trt.__version__}",
            fix=f"use torch-tensorrt instead of torch-tensorrt-rtx: {INSTALL}",
        )
    module: TensorRT = trt
    return module


def _torch_op(name: str) -> OpOverload:
    torch = import_module("torch")
    import_module("imp_trt.ops.mask_projection.torch")  # these two define the operators
    import_module("imp_trt.ops.roi_align.torch")
    op: OpOverload = getattr(torch.ops.imp_trt, _TORCH_OPS[name]).default
    return op


def _version() -> str:
    try:
        return metadata.version("torch-tensorrt")
    except metadata.PackageNotFoundError:
        return "unknown version"


def _bind(op: OpOverload, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Arguments of a call by name, in the order of the operator's schema."""
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in op._schema.arguments}


def _validator(op: OpOverload) -> Callable[[Node, object], bool]:
    """Whether the plugin can replace a node: TensorRT must have the type of its features."""
    torch = import_module("torch")

    def valid(node: Node, compilation_settings: object = None) -> bool:
        arguments = _bind(op, node.args, node.kwargs)
        names = ("masks",) if "masks" in arguments else ("p2", "p3", "p4", "p5")
        values = [getattr(arguments[name], "meta", {}).get("val") for name in names]
        types = {None if value is None else value.dtype for value in values}
        return len(types) == 1 and types <= {None, torch.float32, torch.float16, torch.bfloat16}

    return valid


def _converter(
    trt: TensorRT, op: OpOverload, operator: type[PluginOperator], to_tensor: _ToTensor
) -> Callable[..., ITensor]:
    """The function that Torch-TensorRT calls for a node: adds the plugin layer and returns its output."""

    def convert(
        ctx: _ConversionContext,
        target: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        name: str,
    ) -> ITensor:
        arguments = _bind(op, args, kwargs)
        tensors, values = list(arguments)[: len(operator.RANKS)], list(arguments)[len(operator.RANKS) :]
        inputs = [
            _cast_input(trt, ctx, to_tensor(ctx, arguments[key], f"{name}_{key}"), key) for key in tensors
        ]
        plugin = _create(trt, operator, {key: arguments[key] for key in values})
        layer = ctx.net.add_plugin_v3(inputs, [], plugin)
        if layer is None:
            raise BuildError(f"TensorRT rejects the plugin layer of {operator.NAME}", got=name)
        layer.name = f"[{target}]-[{name}]"
        return layer.get_output(0)

    return convert


def _cast_input(trt: TensorRT, ctx: _ConversionContext, tensor: ITensor, name: str) -> ITensor:
    """The tensor in the type that the plugin requires for an input, cast if it has another."""
    if name in _FLOAT32_INPUTS:
        required = trt.DataType.FLOAT
    elif name == "labels" and tensor.dtype not in (trt.DataType.INT32, trt.DataType.INT64):
        required = trt.DataType.INT32
    else:
        return tensor
    return tensor if tensor.dtype == required else ctx.net.add_cast(tensor, required).get_output(0)


def _create(trt: TensorRT, operator: type[PluginOperator], values: Mapping[str, object]) -> IPluginV3:
    from imp_trt.plugins.python_plugin import NAMESPACE, VERSION, Fields

    creator = trt.get_plugin_registry().get_creator(operator.NAME, VERSION, NAMESPACE)
    fields = Fields(trt, operator(**values))
    plugin = creator and creator.create_plugin(operator.NAME, fields.collection, trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise BuildError(
            f"TensorRT cannot create the plugin {operator.NAME}",
            expected="a plugin",
            got="none, see its log" if creator else "no creator of that name",
        )
    return plugin
