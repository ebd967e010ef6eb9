# SPDX-License-Identifier: Apache-2.0
"""TensorRT 10.3 to 11.x: uses only what all of these versions have."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from imp_trt.backends.engine import EngineBackend
from imp_trt.backends.engine_arrays import EngineArrays
from imp_trt.backends.engine_core import EngineCore
from imp_trt.errors import DependencyMissing
from imp_trt.plugins.tensorrt_types import ICudaEngine, IExecutionContext, TensorRT


class TensorRtLibrary(EngineCore):
    """What engines do in TensorRT."""

    name = "tensorrt"

    def _import(self) -> TensorRT:
        return import_library("tensorrt", "tensorrt")

    def _create_context(self, engine: ICudaEngine) -> IExecutionContext | None:
        return engine.create_execution_context()


class TensorRtBackend(TensorRtLibrary, EngineBackend):
    """An engine in TensorRT. See :class:`imp_trt.backends.engine.EngineBackend`."""


class TensorRtArrays(TensorRtLibrary, EngineArrays):
    """An engine in TensorRT. See :class:`imp_trt.backends.engine_arrays.EngineArrays`."""


def import_library(module: str, extra: str) -> TensorRT:
    """TensorRT's Python module.

    Raises:
        DependencyMissing: it, or a library that it needs, cannot be loaded.
    """
    try:
        library: Any = import_module(module)  # no type information
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise DependencyMissing(
            f"the Python module {module}",
            got=error,
            fix=f"pip install 'imp-trt[{extra}]'; on JetPack or DriveOS use the system's Python packages",
        ) from error
    trt: TensorRT = library
    return trt
