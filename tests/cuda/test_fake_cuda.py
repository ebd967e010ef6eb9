# SPDX-License-Identifier: Apache-2.0
"""The stand-in for the driver has the real one's functions, parameters and numbers."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tests.support.fake_cuda import FakeCuda
from tests.support.fake_cuda_state import (
    CUdevice_attribute,
    CUfunction_attribute,
    CUpointer_attribute,
    CUresult,
    CUstreamCaptureMode,
    CUstreamCaptureStatus,
)

real = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
FUNCTIONS = [name for name in dir(FakeCuda) if name.startswith("cu")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_are_the_real_ones(name):
    ours = list(inspect.signature(getattr(FakeCuda, name)).parameters)[1:]
    assert ours == list(inspect.signature(getattr(real, name)).parameters)


@pytest.mark.parametrize(
    "ours",
    [
        CUresult,
        CUdevice_attribute,
        CUfunction_attribute,
        CUpointer_attribute,
        CUstreamCaptureMode,
        CUstreamCaptureStatus,
    ],
    ids=lambda e: e.__name__,
)
def test_numbers_are_the_real_ones(ours):
    theirs = getattr(real, ours.__name__)
    assert {member.name: int(getattr(theirs, member.name)) for member in ours} == {
        member.name: int(member) for member in ours
    }


def test_it_finds_what_programs_forget():
    fake = FakeCuda()
    assert fake.cuMemAlloc(16) == (CUresult.CUDA_ERROR_INVALID_CONTEXT, None)
    fake.cuCtxSetCurrent(fake.cuDevicePrimaryCtxRetain(0)[1])
    (_, pointer), (_, stream) = fake.cuMemAlloc(16), fake.cuStreamCreate(1)
    assert fake.cuMemcpyDtoDAsync(pointer, pointer + 1, 16, stream) == (CUresult.CUDA_ERROR_INVALID_VALUE,)
    fake.cuMemsetD8Async(pointer, 7, 16, stream)
    assert not (fake.array(pointer, (16,), np.uint8) == 7).any()  # not synchronized yet
    fake.cuStreamSynchronize(stream)
    assert (fake.array(pointer, (4, 4), np.uint8) == 7).all()
    fake.cuMemFree(pointer)
    with pytest.raises(AssertionError, match="no live allocation"):
        fake.array(pointer, (16,), np.uint8)


def test_contexts_are_distinguished():
    fake = FakeCuda(devices=2)
    other = fake.create_context(device=1)
    assert fake.cuCtxSetCurrent(1) == (CUresult.CUDA_ERROR_INVALID_CONTEXT,)  # not retained yet
    primary = fake.cuDevicePrimaryCtxRetain(1)[1]
    assert other != primary
    fake.cuCtxSetCurrent(other)
    assert (fake.cuCtxGetCurrent()[1], fake.cuCtxGetDevice()[1]) == (other, 1)
    stream, entry = fake.cuStreamCreate(1)[1], "imp_frame_fit"
    fake.kernels[entry] = lambda grid, block: None
    kernel = fake.cuModuleGetFunction(fake.cuModuleLoadData(b"image")[1], entry.encode())[1]
    launch = (kernel, 1, 1, 1, 1, 1, 1, 0, stream, ((), ()), 0)
    assert fake.cuLaunchKernel(*launch) == (CUresult.CUDA_SUCCESS,)
    fake.cuCtxSetCurrent(primary)
    assert fake.cuLaunchKernel(*launch) == (CUresult.CUDA_ERROR_INVALID_HANDLE,)
