# SPDX-License-Identifier: Apache-2.0
"""float16 and bfloat16 on the host: every number one way, and what rounds to each the other way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.cuda_on_host.host_kernels import HostKernels, Out
from tests.support.cuda_on_host.operators import TORCH_DTYPES, garbage

pytestmark = pytest.mark.slow

PROBE = """
#include "common/scalar_types.h"

template <class T>
void convert(const T* numbers, const float* values, float* widened, T* narrowed, int count, int total)
{
    for (int i = 0; i < count; ++i) {
        widened[i] = imp::to_float(numbers[i]);
    }
    for (int i = 0; i < total; ++i) {
        narrowed[i] = imp::from_float<T>(values[i]);
    }
}

void convert_f16(const imp::Half* n, const float* v, float* w, imp::Half* out, int count, int total)
{
    convert(n, v, w, out, count, total);
}

void convert_bf16(const imp::BFloat16* n, const float* v, float* w, imp::BFloat16* out, int count, int total)
{
    convert(n, v, w, out, count, total);
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scalar_types")
    source = Path(folder) / "scalar_types.cu"
    source.write_text(PROBE)
    built = HostKernels(source, ["convert_f16", "convert_bf16"], folder)
    yield built
    built.close()


def bits(tensor: torch.Tensor) -> NDArray[np.uint16]:
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_conversions_are_those_of_pytorch(probe: HostKernels, dtype: str) -> None:
    numbers = np.arange(65536, dtype=np.uint16)
    exact = torch.from_numpy(numbers.view(np.int16)).view(TORCH_DTYPES[dtype]).float()
    # Each number, the halfway points between neighbors, and the float32 neighbors of both.
    finite = exact[exact.isfinite()].sort().values.numpy()
    middle = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    points = np.concatenate([finite, middle])
    infinity = np.float32(np.inf)
    neighbors = [np.nextafter(points, infinity), np.nextafter(points, -infinity)]
    values = np.concatenate([points, *neighbors, [np.inf, -np.inf, 0.0, -0.0, 1e-45]]).astype(np.float32)
    widened, narrowed = probe.run(
        f"convert_{dtype}",
        (1, 1, 1),
        (1, 1, 1),
        [
            numbers,
            values,
            Out(garbage((65536,), np.float32)),
            Out(garbage(values.shape, np.uint16)),
            65536,
            len(values),
        ],
    )
    np.testing.assert_array_equal(widened, exact.numpy())
    expected = bits(torch.from_numpy(values).to(TORCH_DTYPES[dtype]))
    np.testing.assert_array_equal(narrowed, expected)
    assert np.isnan(widened).sum() > 0
