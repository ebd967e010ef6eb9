# SPDX-License-Identifier: Apache-2.0
"""Calls of the CUDA driver API through cuda-bindings, and their errors.

Every call looks the bindings up again, so that a test can replace them. Exceptions of the bindings become
errors of imp_trt: bindings newer than the driver may call functions that it lacks, and older ones may not
know a status that it returns.
"""

from __future__ import annotations

import logging
from importlib import import_module
from types import ModuleType
from typing import Any

from imp_trt.errors import DependencyMissing, DeviceError, ImpTrtError

_log = logging.getLogger(__name__)

_bindings: ModuleType | None = None


def bindings() -> ModuleType:
    """The module cuda.bindings.driver, with a loaded driver library.

    Raises:
        DependencyMissing: the package cuda-bindings or the driver's library is missing.
    """
    global _bindings
    if _bindings is None:
        try:
            module = import_module("cuda.bindings.driver")
        except ImportError as error:
            raise DependencyMissing(
                "the Python package cuda-bindings", got=str(error), fix="pip install 'imp-trt[cuda]'"
            ) from error
        try:
            module.cuDriverGetVersion()  # loads the library
        except (RuntimeError, OSError) as error:
            absent = type(error).__name__ == "DynamicLibNotFoundError"  # of cuda.pathfinder, not public
            raise DependencyMissing(
                "the NVIDIA driver",
                got="no libcuda.so.1" if absent else str(error).rstrip("."),
                fix="install the NVIDIA driver, or run on a machine with an NVIDIA GPU",
            ) from error
        _bindings = module
    return _bindings


def set_bindings(module: ModuleType | None) -> None:
    """Replaces cuda.bindings.driver; None restores the real module. For tests."""
    global _bindings
    _bindings = module


# The results of driver functions have no common type: handles, ints, bytes, enumerations.


def invoke(name: str, *args: object) -> tuple[str, Any]:
    """Calls a driver function; its status by name, and its other results: None, a value or a tuple.

    Raises:
        DependencyMissing: there is no driver, or it or cuda-bindings lacks the function.
        DeviceError: the bindings rejected the arguments or cannot represent the result.
    """
    module = bindings()
    try:
        status, *rest = getattr(module, name)(*args)
        return str(status.name), None if not rest else rest[0] if len(rest) == 1 else tuple(rest)
    except Exception as error:
        raise _bindings_error(module, name, error) from error


def call(name: str, *args: object) -> Any:
    """Calls a driver function; None, its result, or the tuple of its results.

    Raises:
        DeviceError: the function returned an error.
        DependencyMissing: there is no driver, or it or cuda-bindings lacks the function.
    """
    status, result = invoke(name, *args)
    if status != "CUDA_SUCCESS":
        raise failure(name, status)
    return result


def release(name: str, *args: object) -> None:
    """Releases a resource. A failure is only logged: a caller could not handle it."""
    try:
        status, _ = invoke(name, *args)
    except ImpTrtError as error:
        status = str(error)
    if status not in ("CUDA_SUCCESS", "CUDA_ERROR_DEINITIALIZED"):
        _log.warning("%s failed: %s", name, status)


def failure(function: str, status: str) -> DeviceError:
    """The error for a status of a function."""
    fix = None
    if status == "CUDA_ERROR_OUT_OF_MEMORY":
        fix = "free GPU memory: close other programs, or use a smaller frame or batch"
    return DeviceError(f"{function} failed", got=f"{status} ({explain(status)})", fix=fix)


def explain(status: str) -> str:
    """The driver's description of a status."""
    module = bindings()
    try:
        _, text = module.cuGetErrorString(getattr(module.CUresult, status))
    except Exception as error:
        return f"no description: {error}"
    return text.decode() if text else "no description"


def _bindings_error(module: ModuleType, name: str, error: Exception) -> ImpTrtError:
    """The error for an exception that the bindings raised."""
    version = _package_version()
    if isinstance(error, AttributeError) and not hasattr(module, name):
        return DependencyMissing(
            f"{name} in cuda-bindings",
            expected="cuda-bindings 12.9.3 or later",
            got=version,
            fix="pip install -U 'imp-trt[cuda]'",
        )
    # "Function cuX not found" in 12.9, FunctionNotFoundError later, which has no public name.
    if isinstance(error, RuntimeError) and "not found" in str(error):
        return _too_old(module, name, version)
    got = f"{type(error).__name__}: {error}"
    return DeviceError(f"{name} failed in cuda-bindings {version}", got=got)


def _too_old(module: ModuleType, name: str, version: str) -> DependencyMissing:
    try:
        supported = int(module.cuDriverGetVersion()[1])
    except Exception:
        supported = 0
    major = supported // 1000
    fix = "update the NVIDIA driver"
    if supported and major < _number(version):
        fix += f", or pip install 'cuda-bindings=={major}.*'"
    return DependencyMissing(
        f"{name} in the NVIDIA driver",
        expected=f"a driver as new as cuda-bindings {version}",
        got=f"one that supports CUDA {major}.{supported % 1000 // 10}" if supported else "an older one",
        fix=fix,
    )


def _package_version() -> str:
    return str(getattr(import_module("cuda.bindings"), "__version__", "0"))


def _number(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 0
