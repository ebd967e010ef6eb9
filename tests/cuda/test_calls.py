# SPDX-License-Identifier: Apache-2.0
"""What becomes of the exceptions that cuda-bindings raise."""

from __future__ import annotations

import ctypes
import logging
from types import SimpleNamespace

import pytest

from imp_trt.cuda import calls
from imp_trt.cuda.driver import Event
from imp_trt.errors import DependencyMissing, DeviceError
from tests.support.fake_cuda_state import CUresult


class FunctionNotFoundError(RuntimeError):
    """As cuda.bindings._internal.utils has it."""


class Bindings:
    """cuda.bindings.driver on a driver for CUDA 12.6, with one function that raises."""

    CUresult = CUresult

    def __init__(self, error):
        self.error = error

    def cuDriverGetVersion(self):
        return CUresult.CUDA_SUCCESS, 12060

    def cuMemFree(self, pointer):
        raise self.error

    def cuEventElapsedTime(self, start, end):
        raise self.error

    def cuGetProcAddress(self, symbol, cudaVersion, flags):
        raise self.error


@pytest.fixture
def raising(monkeypatch):
    def install(error, package="13.5.0"):
        monkeypatch.setattr(calls, "_bindings", Bindings(error))
        monkeypatch.setattr(calls, "import_module", lambda name: SimpleNamespace(__version__=package))

    return install


@pytest.mark.parametrize(
    "error",
    [
        FunctionNotFoundError("function cuMemFree_v3 is not found"),
        RuntimeError('Function "cuMemFree_v3" not found'),
    ],
)
@pytest.mark.parametrize(
    ("package", "fix"),
    [
        ("13.5.0", "update the NVIDIA driver, or pip install 'cuda-bindings==12.*'"),
        ("12.9.10", "update the NVIDIA driver"),
    ],
)
def test_a_function_that_the_driver_lacks(raising, error, package, fix):
    raising(error, package)
    with pytest.raises(DependencyMissing) as caught:
        calls.call("cuMemFree", 8)
    assert str(caught.value) == (
        f"cuMemFree in the NVIDIA driver: expected a driver as new as cuda-bindings {package}, "
        f"got one that supports CUDA 12.6. Fix: {fix}"
    )
    assert caught.value.__cause__ is error


def test_a_function_that_the_bindings_lack(raising):
    raising(None, "12.0.0")
    with pytest.raises(DependencyMissing, match=r"cuNewest in cuda-bindings: .*got 12\.0\.0\. Fix: pip inst"):
        calls.call("cuNewest")


@pytest.mark.parametrize(
    "error",
    [
        TypeError("an integer is required"),
        OverflowError("Python int too large"),
        ValueError("9999 is not a valid CUresult"),
        RuntimeError("Failed to dlopen libcuda.so.1"),
    ],
)
def test_other_exceptions_of_the_bindings(raising, error):
    raising(error)
    said = f"cuMemFree failed in cuda-bindings 13.5.0: got {type(error).__name__}: {error}"
    with pytest.raises(DeviceError, match=said):
        calls.call("cuMemFree", 8)


def test_giving_back_never_raises(raising, caplog):
    raising(FunctionNotFoundError("function cuMemFree_v3 is not found"))
    with caplog.at_level(logging.WARNING):
        calls.release("cuMemFree", 8)
    assert "cuMemFree in the NVIDIA driver" in caplog.text


def test_a_time_that_no_function_measures_is_a_typed_error(raising):
    raising(FunctionNotFoundError("function cuEventElapsedTime_v2 is not found"))
    start, end = Event.__new__(Event), Event.__new__(Event)
    start.handle, end.handle = 8, 16
    with pytest.raises(DependencyMissing, match="cuGetProcAddress in the NVIDIA driver"):
        end.elapsed_ms(start)


def test_the_drivers_own_function_measures_where_the_bindings_have_none(raising):
    raising(FunctionNotFoundError("function cuEventElapsedTime_v2 is not found"))
    asked, status = [], [0]

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_void_p)
    def elapsed(milliseconds, start, end):
        milliseconds[0] = end - start
        return status[0]

    def address(symbol, cudaVersion, flags):
        asked.append((symbol, cudaVersion))
        return CUresult.CUDA_SUCCESS, ctypes.cast(elapsed, ctypes.c_void_p).value, 0

    calls.bindings().cuGetProcAddress = address
    start, end = Event.__new__(Event), Event.__new__(Event)
    start.handle, end.handle = 8, 16
    assert [end.elapsed_ms(start), end.elapsed_ms(start)] == [8.0, 8.0]
    assert asked == [(b"cuEventElapsedTime", 12000)]
    status[0] = 600
    with pytest.raises(DeviceError, match="cuEventElapsedTime failed: got CUDA_ERROR_NOT_READY"):
        end.elapsed_ms(start)
