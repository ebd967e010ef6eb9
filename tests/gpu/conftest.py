# SPDX-License-Identifier: Apache-2.0
"""What tests marked `gpu` need, and the reason why they are skipped where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest

from imp_trt.cuda import driver, nvrtc
from imp_trt.cuda.driver import Device
from imp_trt.errors import DependencyMissing


@lru_cache(maxsize=1)
def missing() -> str | None:
    """Why kernels cannot run here: no package, driver, GPU or fitting NVRTC. None: they can."""
    try:
        info = driver.device_info()
        nvrtc.target(info.compute_capability, info.driver_version)
    except DependencyMissing as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        reason = missing()
        if reason:
            pytest.skip(reason)


@pytest.fixture
def gpu() -> Iterator[Device]:
    """GPU 0, its context current in the thread of the test."""
    device = Device.open()
    yield device
    device.close()


@pytest.fixture(
    params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> str:
    """A device of PyTorch: the same test runs on the CPU everywhere, where tests/ops has its own as well."""
    if request.param == "cuda":
        need_torch_cuda()
    return str(request.param)


def need_torch_cuda() -> None:
    """Skips the test unless PyTorch can use the GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        pytest.skip(f"PyTorch {torch.__version__}, {built}, cannot use the GPU")
