"""Calls of the CUDA driver's functions through cuda-bindings, and the errors that they end in.

Every call looks the bindings up again, so that a test can put a fake in their place. Whatever the bindings
themselves raise becomes an error of imp_trt: the bindings may be newer than the driver, and then lack some of
its functions, or older, and then not know a status that it returns.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from imp_trt.errors import DependencyMissing, DeviceError, ImpTrtError

_log = logging.getLogger(__name__)

_bindings: Any = None


def bindings() -> Any:
    """The module cuda.bindings.driver, with a driver library behind it.

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
            module.cuDriverGetVersion()  # the library is looked for on the first call
        except (RuntimeError, OSError) as error:
            absent = type(error).__name__ == "DynamicLibNotFoundError"  # of cuda.pathfinder, no public name
            raise DependencyMissing(
                "the NVIDIA driver",
                got="no libcuda.so.1" if absent else str(error).rstrip("."),
                fix="install the NVIDIA driver, or run on a machine with an NVIDIA GPU",
            ) from error
        _bindings = module
    return _bindings


def set_bindings(module: Any) -> None:
    """Puts another module in the place of cuda.bindings.driver; None brings the real one back. For tests."""
    global _bindings
    _bindings = module


def invoke(name: str, *args: Any) -> tuple[str, Any]:
    """The status' name, and the rest of the results: None, a value or a tuple.

    Raises:
        DependencyMissing: there is no driver, or it or cuda-bindings lacks the function.
        DeviceError: the bindings refused the arguments or did not understand the answer.
    """
    module = bindings()
    try:
        status, *rest = getattr(module, name)(*args)
        return str(status.name), None if not rest else rest[0] if len(rest) == 1 else tuple(rest)
    except Exception as error:
        raise _refused(module, name, error) from error


def call(name: str, *args: Any) -> Any:
    """Calls a driver function; None, its one result, or the tuple of them.

    Raises:
        DeviceError: the function returned an error.
        DependencyMissing: there is no driver, or it or cuda-bindings lacks the function.
    """
    status, result = invoke(name, *args)
    if status != "CUDA_SUCCESS":
        raise failure(name, status)
    return result


def release(name: str, *args: Any) -> None:
    """Gives something back. A failure is logged: at this point nobody could do anything about it."""
    try:
        status, _ = invoke(name, *args)
    except ImpTrtError as error:
        status = str(error)
    if status not in ("CUDA_SUCCESS", "CUDA_ERROR_DEINITIALIZED"):
        _log.warning("%s failed: %s", name, status)


def failure(function: str, status: str) -> DeviceError:
    """The error for a status that a function returned."""
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


def _refused(module: Any, name: str, error: Exception) -> ImpTrtError:
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


def _too_old(module: Any, name: str, version: str) -> DependencyMissing:
    try:
        known = int(module.cuDriverGetVersion()[1])
    except Exception:
        known = 0
    major = known // 1000
    fix = "update the NVIDIA driver"
    if known and major < _number(version):
        fix += f", or pip install 'cuda-bindings=={major}.*'"
    return DependencyMissing(
        f"{name} in the NVIDIA driver",
        expected=f"a driver as new as cuda-bindings {version}",
        got=f"one that knows CUDA {major}.{known % 1000 // 10}" if known else "an older one",
        fix=fix,
    )


def _package_version() -> str:
    return str(getattr(import_module("cuda.bindings"), "__version__", "0"))


def _number(version: str) -> int:
    first = version.split(".")[0]
    return int(first) if first.isdigit() else 0
