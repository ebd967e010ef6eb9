# SPDX-License-Identifier: Apache-2.0
"""The installed cuda-bindings on drivers of several ages; `python -m tests.cuda.driver_matrix` takes more."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from tests.cuda import driver_matrix
from tests.support.driver_session import build_stub, run_child
from tests.support.variants import variants

OLDEST_AND_NEWEST = (min(driver_matrix.DRIVERS), max(driver_matrix.DRIVERS))


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-bindings is not installed")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    folder = tmp_path_factory.mktemp("stub")
    build_stub(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("version", variants(driver_matrix.DRIVERS, OLDEST_AND_NEWEST))
def test_every_function_works_on_a_driver_of(version, stub, tmp_path):
    saw = run_child(
        *(stub, tmp_path / "log", version, "tests.cuda.driver_matrix"), environment={"MATRIX_CHILD": "1"}
    )
    assert saw["session"] == "ok"
    # cuGetProcAddress is called where cuda-bindings 13 lack a function on a driver for CUDA 12.
    assert driver_matrix.used_functions() - set(saw["called"]) <= {"cuGetProcAddress"}
    log = (tmp_path / "log").read_text()
    assert "elapsed " in log
    assert (" v2\n" in log) == (version >= 12080 and int(saw["bindings"].split(".")[0]) >= 13)
