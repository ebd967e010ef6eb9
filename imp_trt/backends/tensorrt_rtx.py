# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX: like TensorRT, but it compiles kernels on the target and has built-in CUDA graphs."""

from __future__ import annotations

import logging
from pathlib import Path

from imp_trt.backends.engine import EngineBackend
from imp_trt.backends.engine_arrays import EngineArrays
from imp_trt.backends.engine_core import EngineCore
from imp_trt.backends.tensorrt import import_library
from imp_trt.cuda import cache
from imp_trt.data.files import write_atomically
from imp_trt.errors import OutputError
from imp_trt.plugins.tensorrt_types import ICudaEngine, IExecutionContext, Member, TensorRT

_log = logging.getLogger(__name__)


class TensorRtRtxLibrary(EngineCore):
    """What engines do in TensorRT-RTX.

    The network is captured as one graph if the library reports that it can be; else the library's built-in
    graphs are used. The kernels compiled for this GPU are kept in the cache folder for the next start.
    """

    name = "tensorrt-rtx"

    def _import(self) -> TensorRT:
        return import_library("tensorrt_rtx", "tensorrt-rtx")

    def _create_context(self, engine: ICudaEngine) -> IExecutionContext | None:
        return self._context(engine, self._trt.CudaGraphStrategy.DISABLED)

    def _may_capture(self, context: IExecutionContext) -> bool:
        return bool(context.is_stream_capturable(self._stream.handle))

    def _context_without_capture(self, engine: ICudaEngine) -> IExecutionContext:
        self._ran()  # saves the kernels that the first context compiled for the second
        self._handles.context = None  # two contexts would need twice the memory
        context = self._context(engine, self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE)
        if context is None:
            raise self._failed("TensorRT-RTX cannot make a second execution context")
        return context

    def _context(self, engine: ICudaEngine, strategy: Member) -> IExecutionContext | None:
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = strategy
        self._compiled = config.create_runtime_cache()
        self._loaded = _read(self._cache_file())
        # TensorRT-RTX rejects a cache that it cannot use; then it compiles again.
        if self._loaded and not self._compiled.deserialize(self._loaded):
            self._loaded = b""
        config.set_runtime_cache(self._compiled)
        self._handles.kept += [self._compiled, config]  # the context may refer to both
        return engine.create_execution_context(runtime_config=config)

    def _ran(self) -> None:
        memory, path = self._compiled.serialize(), self._cache_file()
        data = b"" if memory is None else bytes(memory)
        loaded = self._loaded
        del self._compiled, self._loaded
        if path is None or data in (b"", loaded):
            return
        try:
            write_atomically(path, data, sync=False)
        except OutputError as error:
            _log.warning("compiled kernels are not cached, each start compiles them again: %s", error)

    def _cache_file(self) -> Path | None:
        folder, info = cache.folder(), self._device.info
        gpu = f"{info.name} {info.compute_capability} {info.driver_version}"
        name = f"{self._sha256[:32]}.{cache.key([gpu])[:16]}.{self._trt.__version__}.bin"
        return None if folder is None else folder.with_name("tensorrt_rtx") / name


class TensorRtRtxBackend(TensorRtRtxLibrary, EngineBackend):
    """An engine in TensorRT-RTX. See :class:`imp_trt.backends.engine.EngineBackend`."""


class TensorRtRtxArrays(TensorRtRtxLibrary, EngineArrays):
    """An engine in TensorRT-RTX. See :class:`imp_trt.backends.engine_arrays.EngineArrays`."""


def _read(path: Path | None) -> bytes:
    try:
        return path.read_bytes() if path is not None else b""
    except OSError:
        return b""
