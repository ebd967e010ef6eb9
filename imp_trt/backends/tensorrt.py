"""TensorRT 10.3 to 11.x: only calls that all of them have."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from imp_trt.backends.engine import EngineBackend
from imp_trt.errors import DependencyMissing


class TensorRtBackend(EngineBackend):
    """An engine in TensorRT. See :class:`imp_trt.backends.engine.EngineBackend`."""

    name = "tensorrt"

    def _import(self) -> Any:
        return import_library("tensorrt", "tensorrt")

    def _create_context(self, engine: Any) -> Any:
        return engine.create_execution_context()


def import_library(module: str, extra: str) -> Any:
    """TensorRT's Python module.

    Raises:
        DependencyMissing: it, or the libraries below it, cannot be loaded.
    """
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        raise DependencyMissing(
            f"the Python module {module}",
            got=error,
            fix=f"pip install 'imp-trt[{extra}]'; on JetPack or DriveOS use the system's Python packages",
        ) from error
