# SPDX-License-Identifier: Apache-2.0
"""The baseline of the benchmark draws what the operator draws: its text run on the host under sanitizers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from imp_trt.ops import instance_mask_projection_numpy
from tests.ops.mask_projection_cases import RULES, Case, invalid_instances, ordinary
from tests.support.cuda_on_host.host_kernels import ROOT, HostKernels, Long, Out
from tests.support.cuda_on_host.operators import garbage

DTYPES = {"f32": np.float32, "f16": np.float16}
ENTRIES = [f"algorithm1_{name}_{dtype}" for name in ("cells", *RULES, "cast") for dtype in DTYPES]
BLOCKS, THREADS = 16, 256


pytestmark = pytest.mark.slow  # the baseline of a benchmark, compiled for it alone


@pytest.fixture(scope="module")
def algorithm1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostKernels]:
    source = ROOT / "tests" / "bench" / "algorithm1.cu"
    built = HostKernels(source, ENTRIES, tmp_path_factory.mktemp("algorithm1"))
    yield built
    built.close()


def far_and_thin(cells: int, dtype: type) -> Case:
    corners = [[-1e9, -1e9, 1e9, 1e9], [1e30, 0, 2e30, 5], [3, 3, 3.0001, 9], [-3, 2, 4, 2.5]]
    masks = np.random.default_rng(1).uniform(0.1, 1, (1, 4, cells, cells)).astype(dtype)
    masks[0, 3] = [np.nan, np.inf, -1.0, 3.0, 0.5][:cells]
    scores = np.array([[0.1, 0.8, 0.9, 0.7]], np.float32)
    return Case(np.array([corners], np.float32), scores, np.zeros((1, 4), np.int64), masks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cells", *RULES])
def test_algorithm_1_draws_the_same_bits(algorithm1: HostKernels, name: str, dtype: str) -> None:
    rule = "rect" if name == "cells" else name
    case = ordinary(3, batch=1, count=6, cells=5, dtype=DTYPES[dtype])
    case = case.plus(invalid_instances(5, dtype=DTYPES[dtype])).plus(far_and_thin(5, DTYPES[dtype]))
    count = case.boxes.shape[1]
    sizes = [8, 1, count, 3, 19, 23, 5, 0.75]
    cleared = Out(np.zeros((1, 3, 19, 23), np.uint32))
    (bits,) = algorithm1.run(
        f"algorithm1_{name}_{dtype}", (BLOCKS, count, 1), (THREADS, 1, 1), [*case, cleared, *sizes]
    )
    out = Out(garbage(bits.shape, DTYPES[dtype]))
    (canvas,) = algorithm1.run(
        f"algorithm1_cast_{dtype}", (2, 1, 1), (THREADS, 1, 1), [bits, out, Long(bits.size)]
    )
    expected = instance_mask_projection_numpy(*case, 3, (19, 23), 0.75, rule)
    np.testing.assert_array_equal(canvas, expected)
    assert expected.any()
