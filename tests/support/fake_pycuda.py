# SPDX-License-Identifier: Apache-2.0
"""A stand-in for PyCUDA on FakeCuda's memory and streams; kernels are compiled for the host with g++."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fake_cuda import FakeCuda

_ON_HOST = """
#define __global__
struct Index {{ unsigned x, y, z; }};
static Index threadIdx, blockIdx, blockDim, gridDim;
{source}
extern "C" void run(unsigned blocks, unsigned threads, {parameters}) {{
    gridDim = {{blocks, 1, 1}}; blockDim = {{threads, 1, 1}};
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            {name}({names});
}}
"""


def install(cuda: FakeCuda, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the modules where `import pycuda...` finds them; the primary context becomes current."""
    assert cuda.cuDevicePrimaryCtxRetain(0) == (0, 1)
    cuda.cuCtxSetCurrent(1)
    names = ("pycuda", "pycuda.autoprimaryctx", "pycuda.driver", "pycuda.gpuarray", "pycuda.compiler")
    modules: dict[str, Any] = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        if name != "pycuda":
            setattr(modules["pycuda"], name.removeprefix("pycuda."), module)
    modules["pycuda.driver"].Stream = lambda: _Stream(cuda)
    modules["pycuda.driver"].pagelocked_empty = lambda shape, dtype: _pinned(cuda, shape, dtype)
    modules["pycuda.gpuarray"].empty = lambda shape, dtype: _GPUArray(cuda, shape, dtype)
    modules["pycuda.gpuarray"].to_gpu = lambda array: _GPUArray(cuda, array.shape, array.dtype).set(array)
    modules["pycuda.compiler"].SourceModule = lambda source: _SourceModule(cuda, source, folder)


class _Stream:
    def __init__(self, cuda: FakeCuda) -> None:
        status, self.handle = cuda.cuStreamCreate(1)
        assert status == 0


def _pinned(cuda: FakeCuda, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    _, pointer = cuda.cuMemHostAlloc(nbytes, 0)
    block = cuda._find(pointer, nbytes, cuda._pinned)
    assert block is not None
    return block.view(dtype).reshape(shape)


class _GPUArray:
    def __init__(self, cuda: FakeCuda, shape: tuple[int, ...], dtype: Any) -> None:
        self._cuda, self.shape, self.dtype = cuda, shape, np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        _, self.gpudata = cuda.cuMemAlloc(self.nbytes)

    def set(self, array: NDArray[Any]) -> _GPUArray:
        self._cuda.array(self.gpudata, array.shape, array.dtype)[...] = array
        return self

    def set_async(self, array: NDArray[Any], stream: _Stream) -> None:
        # Of pageable memory a copy would be taken at once: only pinned memory shows a reader that is early.
        status = self._cuda.cuMemcpyHtoDAsync(self.gpudata, array.ctypes.data, self.nbytes, stream.handle)
        assert status == (0,)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        strides = np.empty(self.shape, self.dtype).strides
        return {
            "shape": self.shape,
            "strides": strides,
            "data": (self.gpudata, False),
            "typestr": self.dtype.str,
            "stream": None,
            "version": 3,
        }


class _SourceModule:
    def __init__(self, cuda: FakeCuda, source: str, folder: Path) -> None:
        self._cuda, self._source, self._folder = cuda, source, folder

    def get_function(self, name: str) -> Any:
        parameters = self._source.partition(f"{name}(")[2].partition(")")[0]
        names = ", ".join(part.split()[-1].strip("*") for part in parameters.split(","))
        text = _ON_HOST.format(source=self._source, name=name, parameters=parameters, names=names)
        (self._folder / f"{name}.cpp").write_text(text)
        library = self._folder / f"{name}.so"
        subprocess.run(["g++", "-shared", "-fPIC", self._folder / f"{name}.cpp", "-o", library], check=True)
        run = ctypes.CDLL(str(library)).run

        def launch(*arguments: Any, block: Any, grid: Any, stream: _Stream) -> None:
            given = [
                ctypes.c_int(int(a)) if isinstance(a, np.int32) else ctypes.c_void_p(int(a))
                for a in arguments
            ]
            self._cuda.enqueue(stream.handle, lambda: run(grid[0], block[0], *given))

        return launch
