# SPDX-License-Identifier: Apache-2.0
"""The part of TensorRT's Python bindings that imp_trt uses, as protocols.

Classes, methods and members have the names of NVIDIA's documentation (TensorRT Python API). `tensorrt` and
`tensorrt_rtx` both match; what only one of them has is marked. The bindings have no type information of
their own, and importing one of them here would make it a dependency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# ---- enumerations ----


class Member(Protocol):
    """A member of an enumeration; its class is that of the enumeration, made by pybind11."""

    @property
    def name(self) -> str: ...
    def __int__(self) -> int: ...


class DataTypes(Protocol):
    FLOAT: Member
    INT32: Member
    INT64: Member


class TensorFormats(Protocol):
    LINEAR: Member


class PluginFieldTypes(Protocol):
    CHAR: Member


class DimensionOperations(Protocol):
    PROD: Member


class TensorRTPhases(Protocol):
    BUILD: Member


class LayerTypes(Protocol):
    PLUGIN_V3: Member


class ProfilingVerbosities(Protocol):
    DETAILED: Member


class BuilderFlags(Protocol):
    TF32: Member
    VERSION_COMPATIBLE: Member  # tensorrt


class MemoryPoolTypes(Protocol):
    WORKSPACE: Member


class LayerInformationFormats(Protocol):
    JSON: Member


class ComputeCapabilities(Protocol):
    __members__: Mapping[str, Member]


class CudaGraphStrategies(Protocol):
    DISABLED: Member
    WHOLE_GRAPH_CAPTURE: Member


# ---- builder ----


class IHostMemory(Protocol):
    """Memory of TensorRT's; `bytes` copies it."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITensor(Protocol):
    name: str

    @property
    def dtype(self) -> Member: ...


class ILayer(Protocol):
    name: str

    @property
    def type(self) -> Member: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...
    def get_output(self, index: int) -> ITensor: ...


class INetworkDefinition(Protocol):
    @property
    def num_layers(self) -> int: ...
    def get_layer(self, index: int) -> ILayer: ...
    def add_plugin_v3(
        self, inputs: Sequence[ITensor], shape_inputs: Sequence[ITensor], plugin: IPluginV3
    ) -> ILayer | None: ...  # tensorrt
    def add_cast(self, input: ITensor, to_type: Member) -> ILayer: ...


class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    builder_optimization_level: int
    profiling_verbosity: Member
    progress_monitor: object
    hardware_compatibility_level: Member  # tensorrt
    num_compute_capabilities: int  # tensorrt_rtx

    def set_flag(self, flag: Member) -> None: ...
    def clear_flag(self, flag: Member) -> None: ...
    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache | None, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...
    def set_compute_capability(self, compute_capability: Member, index: int) -> bool: ...  # tensorrt_rtx


class Builder(Protocol):
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None: ...


class ParserError(Protocol):
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...
    def desc(self) -> str: ...


class OnnxParser(Protocol):
    @property
    def num_errors(self) -> int: ...
    def get_error(self, index: int) -> ParserError: ...
    def parse(self, model: bytes) -> bool: ...


# ---- runtime ----


class EngineInspector(Protocol):
    def get_engine_information(self, format: Member) -> str: ...


class IExecutionContext(Protocol):
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...
    def is_stream_capturable(self, stream: int) -> bool: ...  # tensorrt_rtx


class IRuntimeCache(Protocol):
    """Kernels that TensorRT-RTX has compiled."""

    def serialize(self) -> IHostMemory | None: ...
    def deserialize(self, blob: bytes) -> bool: ...


class IRuntimeConfig(Protocol):
    cuda_graph_strategy: Member

    def create_runtime_cache(self) -> IRuntimeCache: ...
    def set_runtime_cache(self, cache: IRuntimeCache) -> bool: ...


class ICudaEngine(Protocol):
    @property
    def num_io_tensors(self) -> int: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Member: ...
    def get_tensor_dtype(self, name: str) -> Member: ...
    def get_tensor_shape(self, name: str) -> Iterable[int]: ...
    def get_tensor_location(self, name: str) -> Member: ...
    def get_tensor_format(self, name: str) -> Member: ...
    def create_engine_inspector(self) -> EngineInspector: ...
    def create_execution_context(
        self, *, runtime_config: IRuntimeConfig = ...
    ) -> IExecutionContext | None: ...
    def create_runtime_config(self) -> IRuntimeConfig: ...  # tensorrt_rtx


class Runtime(Protocol):
    engine_host_code_allowed: bool

    def deserialize_cuda_engine(self, serialized_engine: bytes | IHostMemory) -> ICudaEngine | None: ...


# ---- plugins ----


class PluginField(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> Member: ...
    @property
    def size(self) -> int: ...
    @property
    def data(self) -> NDArray[np.generic]: ...


PluginFieldCollection = Iterable[PluginField]
"""What the bindings pass to a creator, and what `PluginFieldCollection_` is made from."""


class IDimensionExpr(Protocol):
    """A size that TensorRT may not know yet."""


class IExprBuilder(Protocol):
    def constant(self, value: int) -> IDimensionExpr: ...
    def operation(self, op: Member, first: IDimensionExpr, second: IDimensionExpr) -> IDimensionExpr: ...


class DimsExprs(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> IDimensionExpr: ...
    def __setitem__(self, index: int, value: IDimensionExpr, /) -> None: ...


class PluginTensorDesc(Protocol):
    dims: Sequence[int]
    type: Member
    format: Member


class DynamicPluginTensorDesc(Protocol):
    desc: PluginTensorDesc


class IPluginV3(Protocol):
    """A plugin; also the class of what a creator returns."""


class IPluginCreatorV3One(Protocol):
    name: str
    plugin_version: str
    plugin_namespace: str

    def create_plugin(self, name: str, field_collection: object, phase: Member) -> IPluginV3 | None: ...


class IPluginRegistry(Protocol):
    @property
    def all_creators(self) -> Sequence[IPluginCreatorV3One]: ...
    def get_creator(self, name: str, version: str, plugin_namespace: str) -> IPluginCreatorV3One | None: ...
    def register_creator(self, creator: object, plugin_namespace: str) -> bool: ...
    def load_library(self, plugin_path: str) -> object: ...


# ---- the module ----

# Inside of the class TensorRT these names are attributes of it.
_Builder = Builder
_DimsExprs = DimsExprs
_Field = PluginField
_FieldCollection = PluginFieldCollection
_OnnxParser = OnnxParser
_Runtime = Runtime


class TensorRT(Protocol):
    """The module `tensorrt` or `tensorrt_rtx`.

    Classes that imp_trt derives from are of type Any: a type checker takes no attribute for a base class.
    """

    __name__: str
    __version__: str

    def __hash__(self) -> int: ...

    ILogger: Any
    IProgressMonitor: Any
    IPluginV3: Any
    IPluginV3OneCore: Any
    IPluginV3OneBuild: Any
    IPluginV3OneRuntime: Any
    IPluginCreatorV3One: Any

    BuilderFlag: BuilderFlags
    ComputeCapability: ComputeCapabilities  # tensorrt_rtx
    CudaGraphStrategy: CudaGraphStrategies  # tensorrt_rtx
    DataType: DataTypes
    DimensionOperation: DimensionOperations
    HardwareCompatibilityLevel: object  # tensorrt
    LayerInformationFormat: LayerInformationFormats
    LayerType: LayerTypes
    MemoryPoolType: MemoryPoolTypes
    NetworkDefinitionCreationFlag: object
    PluginFieldType: PluginFieldTypes
    ProfilingVerbosity: ProfilingVerbosities
    TensorFormat: TensorFormats
    TensorRTPhase: TensorRTPhases

    def Builder(self, logger: object) -> _Builder: ...
    def DimsExprs(self, size: int) -> _DimsExprs: ...
    def OnnxParser(self, network: INetworkDefinition, logger: object) -> _OnnxParser: ...
    def PluginField(self, name: str, data: NDArray[np.generic], type: Member) -> _Field: ...
    def PluginFieldCollection(self, fields: Sequence[_Field]) -> _FieldCollection: ...
    def PluginFieldCollection_(self, fields: _FieldCollection) -> object: ...
    def Runtime(self, logger: object) -> _Runtime: ...
    def get_plugin_registry(self) -> IPluginRegistry: ...
