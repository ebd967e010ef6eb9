# SPDX-License-Identifier: Apache-2.0
"""A stand-in for `tensorrt` and `tensorrt_rtx` whose engines hold an ONNX model and run it in ONNX Runtime.

It works on the memory and the streams of FakeCuda: a network runs when its stream gets there, on what lies
at its addresses then, and again whenever a graph that recorded it is launched. Like the real one it does work
in the first call that cannot be recorded, and says None or False instead of raising. Whatever has a name here
has it in the real bindings too (tests/backends/test_tensorrt_api.py).

    with fake_gpu("tensorrt") as (trt, cuda):
        Segmenter(engine_file(folder, trt)).run(frame)
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from imp_trt.artifacts.manifest import Manifest
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.cuda.platform import platform_name
from tests.support import engines, tiny
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_cuda_state import OK, CUpointer_attribute, CUresult
from tests.support.fake_kernels import kernels

VERSIONS = {"tensorrt": "10.3.0.26", "tensorrt_rtx": "1.7.1.116"}
CAPABILITY = (8, 9)
_HEADER = 64

Severity = IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
TensorIOMode = IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
TensorLocation = IntEnum("TensorLocation", {"DEVICE": 0, "HOST": 1})
TensorFormat = IntEnum("TensorFormat", {"LINEAR": 0, "CHW4": 3})
DataType = IntEnum("DataType", {"FLOAT": 0, "HALF": 1, "INT32": 3, "INT64": 4, "UINT8": 6})
CudaGraphStrategy = IntEnum("CudaGraphStrategy", {"DISABLED": 0, "WHOLE_GRAPH_CAPTURE": 1})
_ONNX_TYPES = {
    "tensor(uint8)": (np.uint8, DataType.UINT8),
    "tensor(float)": (np.float32, DataType.FLOAT),
    "tensor(int32)": (np.int32, DataType.INT32),
    "tensor(int64)": (np.int64, DataType.INT64),
}


class FakeGpu(FakeCuda):
    """FakeCuda with memory that ends, and memory of another GPU.

    Attributes:
        elsewhere: device pointers that belong to GPU 1.
        contexts: device pointer -> its context, where that is not the primary one; 0 for memory of a pool.
        allocations_left: cuMemAlloc and cuMemHostAlloc run out of memory when it gets to 0.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(compute_capability=CAPABILITY, kernels=kernels(), **options)
        self.elsewhere: set[int] = set()
        self.contexts: dict[int, int] = {}
        self.allocations_left = 1 << 30

    def cuPointerGetAttribute(self, attribute: Any, ptr: int) -> tuple[Any, ...]:
        status, value = super().cuPointerGetAttribute(attribute, ptr)
        if status == OK and attribute == CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT:
            return status, self.contexts.get(ptr, 1)
        return status, 1 if ptr in self.elsewhere else value

    def cuMemAlloc(self, bytesize: int) -> tuple[Any, ...]:
        return self._spent() or super().cuMemAlloc(bytesize)

    def cuMemHostAlloc(self, bytesize: int, Flags: int) -> tuple[Any, ...]:
        return self._spent() or super().cuMemHostAlloc(bytesize, Flags)

    def _spent(self) -> tuple[Any, ...] | None:
        self.allocations_left -= 1
        return (CUresult.CUDA_ERROR_OUT_OF_MEMORY, None) if self.allocations_left < 0 else None


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.ready = True  # a subclass that does not call this crashes the real one


class FakeTensorRt(ModuleType):
    """The module.

    Attributes:
        fails: what goes wrong: "runtime", "deserialize", "context", "address", "execute" (every time),
            "capture" (the network does what cannot be recorded), "capturable" (RTX says that it cannot).
        runs: networks that have run.
        enqueued: calls of execute_async_v3.
        strategies: CUDA graph strategies of the contexts made (RTX).
        cache: what the runtime cache holds (RTX).
        found: runtime caches that were filled from bytes (RTX).
        contexts: the most execution contexts that lived at a time.
        alive, gone: names of the objects that live, and that went, in that order.
    """

    def __init__(self, name: str, cuda: FakeGpu, version: str | None = None) -> None:
        super().__init__(name)
        self.__version__ = version or VERSIONS[name]
        self.cuda = cuda
        self.fails: set[str] = set()
        self.runs = self.enqueued = 0
        self.strategies: list[Any] = []
        self.cache = b"compiled"
        self.found = self.contexts = 0
        self.alive: list[str] = []
        self.gone: list[str] = []
        self.ILogger = ILogger
        self.Runtime = lambda logger: Runtime(logger, self)
        if name == "tensorrt_rtx":
            self.CudaGraphStrategy = CudaGraphStrategy


class _Counted:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt
        trt.alive.append(type(self).__name__)

    def __del__(self) -> None:
        self._trt.alive.remove(type(self).__name__)
        self._trt.gone.append(type(self).__name__)


class Runtime(_Counted):
    def __init__(self, logger: Any, trt: FakeTensorRt) -> None:
        super().__init__(trt)
        if "runtime" in trt.fails:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        assert isinstance(logger, ILogger)
        assert logger.ready
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        assert not self.engine_host_code_allowed
        if "deserialize" in self._trt.fails:
            self.logger.log(Severity.ERROR, "deserialize: plan was damaged on the way")
            return None
        return ICudaEngine(self, serialized_engine[_HEADER:])


class ICudaEngine(_Counted):
    def __init__(self, runtime: Runtime, model: bytes) -> None:
        super().__init__(runtime._trt)
        self._logger = runtime.logger
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._nodes = {node.name: node for node in (*inputs, *outputs)}
        self._inputs = [node.name for node in inputs]
        self._outputs = [node.name for node in outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return _ONNX_TYPES[self._nodes[name].type][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(side if isinstance(side, int) else -1 for side in self._nodes[name].shape)

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.HOST if "location" in self._trt.fails else TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return TensorFormat.LINEAR

    def create_runtime_config(self) -> IRuntimeConfig:
        if self._trt.__name__ != "tensorrt_rtx":
            raise AttributeError("create_runtime_config")  # newer than TensorRT 10.3
        return IRuntimeConfig(self._trt)

    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext | None:
        if "context" in self._trt.fails:
            self._logger.log(Severity.ERROR, "out of memory in createExecutionContext")
            return None
        if runtime_config is not None:
            self._trt.strategies.append(runtime_config.cuda_graph_strategy)
        return IExecutionContext(self)


class IRuntimeConfig(_Counted):
    def __init__(self, trt: FakeTensorRt) -> None:
        super().__init__(trt)
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._trt)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return cache is not None


class IRuntimeCache(_Counted):
    def serialize(self) -> bytes:
        return self._trt.cache

    def deserialize(self, blob: bytes) -> bool:
        fits = bytes(blob) == self._trt.cache
        self._trt.found += fits
        return fits


class IExecutionContext(_Counted):
    def __init__(self, engine: ICudaEngine) -> None:
        super().__init__(engine._trt)
        self._trt.contexts = max(self._trt.contexts, self._trt.alive.count("IExecutionContext"))
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._first = True
        self._stale = False  # CUDA's runtime has an error that has not been queried yet

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return name in self._engine._nodes and "address" not in self._trt.fails

    def is_stream_capturable(self, stream: int) -> bool:
        return "capturable" not in self._trt.fails

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt = self._trt
        trt.enqueued += 1
        if "execute" in trt.fails or set(self._addresses) != set(self._engine._nodes):
            self._engine._logger.log(Severity.ERROR, "enqueueV3: an address is missing, or worse")
            return False
        # NVIDIA's guide, on empty tensors: each has an address of its own, and none is null.
        if len(set(self._addresses.values()) - {0}) < len(self._engine._nodes):
            self._engine._logger.log(Severity.ERROR, "enqueueV3: two tensors share an address")
            return False
        if self._stale:
            self._engine._logger.log(Severity.ERROR, "CUDA error: operation failed due to a previous error")
            self._stale = False
            return False
        if self._first or "capture" in trt.fails:
            # What the real one does once for lazily loaded kernels; CUDA records no allocation.
            status, pointer = FakeCuda.cuMemAlloc(trt.cuda, 16)
            if status == OK:
                trt.cuda.cuMemFree(pointer)
            self._stale = status != OK
            self._first = False
        return bool(trt.cuda.enqueue(stream_handle, self._work(dict(self._addresses))) == OK)

    def _work(self, addresses: dict[str, int]) -> Callable[[], None]:
        engine, trt = self._engine, self._trt

        def memory(name: str) -> Any:
            dtype = _ONNX_TYPES[engine._nodes[name].type][0]
            return trt.cuda.array(addresses[name], engine.get_tensor_shape(name), dtype)

        def run() -> None:
            trt.runs += 1
            feeds = {name: memory(name).copy() for name in engine._inputs}
            for name, value in zip(engine._outputs, engine._session.run(None, feeds), strict=True):
                memory(name)[...] = value

        return run


@contextmanager
def fake_gpu(library: str = "tensorrt", **options: Any) -> Iterator[tuple[FakeTensorRt, FakeGpu]]:
    """A machine with a GPU and a TensorRT, both fake."""
    cuda = FakeGpu(**options)
    trt = FakeTensorRt(library, cuda)
    before = {name: sys.modules.pop(name, None) for name in VERSIONS}
    try:
        for name in VERSIONS:
            sys.modules[name] = trt if name == library else None  # type: ignore[assignment]
        with cuda.installed():
            yield trt, cuda
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def plan(model: onnx.ModelProto, library: str = "tensorrt") -> bytes:
    """An engine that such a machine loads: the header that preflight reads, then the model."""
    body = model.SerializeToString()
    numbers = bytes(int(part) for part in VERSIONS[library].split("."))
    if library == "tensorrt":
        return (b"ftrt" + bytes(20) + numbers).ljust(_HEADER, b"\0") + body
    bits = 1 << 3  # compute capability 8.9
    head = b"vtrt" + struct.pack("<IIIQ", 0, 2, 0, _HEADER + len(body)) + numbers + b"vtrt"
    return (head + struct.pack("<I", bits)).ljust(_HEADER, b"\0") + body


def engine_manifest(base: Manifest, library: str = "tensorrt", **changes: Any) -> Manifest:
    """The manifest of an ONNX file as that of an engine; changes go to its engine part."""
    from dataclasses import replace

    values: dict[str, Any] = {
        "backend": library.replace("_", "-"),
        "version": VERSIONS[library],
        "compute_capabilities": ("{}.{}".format(*CAPABILITY),),
        "platform": platform_name(),
        "operators": {},
    }
    engine = engines.info(**(values | changes))
    return replace(base, kind="engine", opset=None, target="test", sha256="", engine=engine)


def engine_file(
    folder: Path,
    library: str = "tensorrt",
    model: onnx.ModelProto | None = None,
    manifest: Manifest | None = None,
    batch: int = 1,
    **changes: Any,
) -> Path:
    """An engine file with its manifest; the network is tests.support.tiny unless another is given."""
    path = folder / f"tiny.fp32.{library}.engine"
    payload = plan(model or tiny.graph(batch), library)
    return write_artifact(
        path, payload, engine_manifest(manifest or tiny.manifest(batch), library, **changes)
    )


def network_engine_file(
    folder: Path,
    library: str,
    model: onnx.ModelProto,
    manifest: NetworkManifest | None = None,
    **changes: Any,
) -> Path:
    """An engine file of a third-party network, with its manifest; changes go to its engine part."""
    from dataclasses import replace

    from tests.support import foreign

    values: dict[str, Any] = {
        "backend": library.replace("_", "-"),
        "version": VERSIONS[library],
        "compute_capabilities": ("{}.{}".format(*CAPABILITY),),
        "platform": platform_name(),
        "operators": {},
    }
    base = manifest or foreign.manifest(model)
    described = replace(base, kind="engine", engine=engines.info(**(values | changes)))
    return write_artifact(folder / f"yours.fp32.{library}.engine", plan(model, library), described)


def varying_graph(batch: int = 1) -> onnx.ModelProto:
    """tests.support.tiny's network, but boxes, scores and masks depend on the frame's brightness."""
    model = tiny.graph(batch)
    nodes, values = model.graph.node, model.graph.initializer
    values.append(onnx.numpy_helper.from_array(np.float32(1 / 510), "scale"))
    values.append(onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "pixel_axes"))
    moved = {
        "boxes": ("Add", [batch, 1, 1]),
        "scores": ("Mul", [batch, 1]),
        "masks": ("Mul", [batch, 1, 1, 1]),
    }
    for name, (_, shape) in moved.items():
        values.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), f"{name}_shape"))
    make = onnx.helper.make_node
    first = [
        make("Cast", ["frame"], ["wide_frame"], to=onnx.TensorProto.FLOAT),
        make("ReduceMean", ["wide_frame", "pixel_axes"], ["mean"], keepdims=0),
        make("Mul", ["mean", "scale"], ["brightness"]),
        *(make("Reshape", ["brightness", f"{name}_shape"], [f"{name}_factor"]) for name in moved),
    ]
    for node in nodes:
        if node.output[0] in moved:
            name = node.output[0]
            node.CopyFrom(make(moved[name][0], [f"{name}_value", f"{name}_factor"], [name]))
    rest = list(nodes)
    del nodes[:]
    nodes.extend([*first, *rest])
    return model
