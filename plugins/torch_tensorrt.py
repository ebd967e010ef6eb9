"""The operators of imp_trt for Torch-TensorRT: `torch_tensorrt.compile` puts the plugins in its engines.

    import torch_tensorrt
    from imp_trt.plugins.torch_tensorrt import register_converters

    register_converters()
    compiled = torch_tensorrt.compile(model, ir="dynamo", inputs=[frame])

Without it the operators run in PyTorch, between two engines. A process that only loads a compiled model has
to call register_converters too, before it loads it: the engine in it asks TensorRT for the plugins.

UNVERIFIED: compiling a model this way has not been run; samples/on_target does it where Torch-TensorRT is
installed. The registration is tested against a stub with the parameters of the real decorator, and the plugin
is created by the real registry of TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from imp_trt.errors import BuildError, DependencyMissing

INSTALL = "pip install 'imp-trt[torch-tensorrt]'"
READ_VERSIONS = ("2.13.0", "2.14.0")
"""Releases of torch-tensorrt whose source the calls below were checked against. The converter registries of
both, loaded alone, took the converters and found them for nodes of torch.export."""

_TORCH_OPS = {
    "InstanceMaskProjection": "instance_mask_projection",
    "ImpMultilevelRoiAlign": "multilevel_roi_align",
}
_FLOAT32_INPUTS = ("boxes", "scores")  # PyTorch's form converts them; the plugin takes nothing else
_registered: set[str] = set()


def register_converters(library: Path | None = None) -> None:
    """Teach Torch-TensorRT the operators of imp_trt, for this process; more than one call does no harm.

    Args:
        library: the C++ plugin library; None takes $IMP_TRT_PLUGIN_LIBRARY, else the Python plugins.

    Raises:
        DependencyMissing: torch-tensorrt, or the TensorRT under it, is missing or has another interface.
        EngineIncompatible, UsageError: see :func:`imp_trt.plugins.registration.register_plugins`.
    """
    decorator, to_tensor = _interface()
    trt = _tensorrt()
    from imp_trt.plugins.registration import operators, register_plugins

    register_plugins(trt, library)
    for operator in operators():
        if operator.NAME not in _registered:
            op = _torch_op(operator.NAME)
            # No dynamic shapes: the canvas is the size that the network was traced with.
            register = decorator(op, capability_validator=_validator(op), supports_dynamic_shapes=False)
            register(_converter(trt, op, operator, to_tensor))
            _registered.add(operator.NAME)


def _interface() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Torch-TensorRT's decorator of converters, and its function that makes a tensor of any argument."""
    try:
        conversion = import_module("torch_tensorrt.dynamo.conversion")
        utilities = import_module("torch_tensorrt.dynamo.conversion.converter_utils")
    except Exception as error:  # it raises plain Exception where TensorRT is missing
        raise DependencyMissing(
            "Torch-TensorRT cannot be imported", got=" ".join(str(error).split()), fix=INSTALL
        ) from error
    try:
        return conversion.dynamo_tensorrt_converter, utilities.get_trt_tensor
    except AttributeError as error:
        raise DependencyMissing(
            "Torch-TensorRT has another interface",
            expected=f"torch-tensorrt {' or '.join(READ_VERSIONS)}",
            got=f"{_version()}: {error}",
            fix=INSTALL,
        ) from error


def _tensorrt() -> Any:
    # Torch-TensorRT for RTX puts tensorrt_rtx in the place of tensorrt; its networks take no plugins.
    trt = import_module("tensorrt")
    if not hasattr(trt.INetworkDefinition, "add_plugin_v3"):
        raise DependencyMissing(
            "the TensorRT of Torch-TensorRT",
            expected="tensorrt, whose Python networks take plugins",
            got=f"{trt.__name__} {trt.__version__}",
            fix=f"use torch-tensorrt instead of torch-tensorrt-rtx: {INSTALL}",
        )
    return trt


def _torch_op(name: str) -> Any:
    torch = import_module("torch")
    import_module("imp_trt.ops.mask_projection.torch")  # these two define the operators
    import_module("imp_trt.ops.roi_align.torch")
    return getattr(torch.ops.imp_trt, _TORCH_OPS[name]).default


def _version() -> str:
    try:
        return metadata.version("torch-tensorrt")
    except metadata.PackageNotFoundError:
        return "unknown version"


def _bind(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by name, in the order of the operator's schema."""
    given = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in op._schema.arguments}


def _validator(op: Any) -> Callable[[Any, Any], bool]:
    """Whether the plugin can stand for a node: its feature type has to be one that TensorRT has."""
    torch = import_module("torch")

    def valid(node: Any, compilation_settings: Any = None) -> bool:
        arguments = _bind(op, node.args, node.kwargs)
        names = ("masks",) if "masks" in arguments else ("p2", "p3", "p4", "p5")
        found = [getattr(arguments[name], "meta", {}).get("val") for name in names]
        types = {None if value is None else value.dtype for value in found}
        return len(types) == 1 and types <= {None, torch.float32, torch.float16, torch.bfloat16}

    return valid


def _converter(trt: Any, op: Any, operator: Any, to_tensor: Callable[..., Any]) -> Callable[..., Any]:
    """The function that Torch-TensorRT calls for a node: adds the plugin's layer, returns its output."""

    def convert(ctx: Any, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
        arguments = _bind(op, args, kwargs)
        tensors, values = list(arguments)[: len(operator.RANKS)], list(arguments)[len(operator.RANKS) :]
        inputs = [
            _as_taken(trt, ctx, to_tensor(ctx, arguments[key], f"{name}_{key}"), key) for key in tensors
        ]
        plugin = _create(trt, operator, {key: arguments[key] for key in values})
        layer = ctx.net.add_plugin_v3(inputs, [], plugin)
        if layer is None:
            raise BuildError(f"TensorRT refuses the plugin layer of {operator.NAME}", got=name)
        layer.name = f"[{target}]-[{name}]"
        return layer.get_output(0)

    return convert


def _as_taken(trt: Any, ctx: Any, tensor: Any, name: str) -> Any:
    """A tensor in the type that the plugin takes for an input, through a cast where it has another."""
    if name in _FLOAT32_INPUTS:
        wanted = trt.DataType.FLOAT
    elif name == "labels" and tensor.dtype not in (trt.DataType.INT32, trt.DataType.INT64):
        wanted = trt.DataType.INT32
    else:
        return tensor
    return tensor if tensor.dtype == wanted else ctx.net.add_cast(tensor, wanted).get_output(0)


def _create(trt: Any, operator: Any, values: Mapping[str, Any]) -> Any:
    from imp_trt.plugins.python_plugin import NAMESPACE, VERSION, Fields

    creator = trt.get_plugin_registry().get_creator(operator.NAME, VERSION, NAMESPACE)
    fields = Fields(trt, operator(**values))
    plugin = creator and creator.create_plugin(operator.NAME, fields.collection, trt.TensorRTPhase.BUILD)
    if plugin is None:
        raise BuildError(
            f"TensorRT does not create the plugin {operator.NAME}",
            expected="a plugin",
            got="none, see its log" if creator else "no creator of that name",
        )
    return plugin
