# SPDX-License-Identifier: Apache-2.0
"""The stand-ins have nothing that the real bindings lack: TensorRT's names and arities, and the driver's."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support import fake_tensorrt
from tests.support.docstrings import signatures
from tests.support.fake_cuda import FakeCuda
from tests.support.rtx import run_rtx

pytestmark = pytest.mark.slow

CLASSES = ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache")
ENUMERATIONS = ("DataType", "TensorIOMode", "TensorLocation", "TensorFormat", "CudaGraphStrategy")
# Set by the fakes' constructors, so that dir() of the class does not show them.
ATTRIBUTES = {"Runtime": ["engine_host_code_allowed"], "IRuntimeConfig": ["cuda_graph_strategy"]}
CALLED_HERE = ("cuCtxGetCurrent", "cuCtxSetCurrent", "cuStreamWaitEvent", "cuPointerGetAttribute")


def describe_rtx() -> dict[str, Any]:
    """Run in a child process: class -> attribute -> its docstring, enumeration -> members."""
    import tensorrt_rtx as trt

    found: dict[str, Any] = {}
    for name in CLASSES:
        kind = getattr(trt, name)
        found[name] = {item: str(getattr(kind, item).__doc__) for item in dir(kind)}
    for name in ENUMERATIONS:
        found[name] = list(getattr(trt, name).__members__)
    found["Severity"] = list(trt.ILogger.Severity.__members__)
    found["version"] = trt.__version__
    return found


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    if find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed: pip install 'imp-trt[tensorrt-rtx]'")
    return dict(run_rtx(describe_rtx).result)


def test_docstrings_are_read_right() -> None:
    text = (
        "f(*args, **kwargs)\nOverloaded function.\n\n1. f(self: m.A, b: list[tuple[int, int]], "
        "c: m.E = <E.X: 0>) -> int\n\n2. f(self: m.A) -> None"
    )
    assert signatures(text, "f") == [["b", "c"], []]


def methods(kind: type) -> list[str]:
    return [name for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"]


@pytest.mark.parametrize("name", CLASSES)
def test_every_name_and_arity_is_real(real: dict[str, Any], name: str) -> None:
    kind = getattr(fake_tensorrt, name)
    properties = [item for item, value in vars(kind).items() if isinstance(value, property)]
    for item in (*properties, *ATTRIBUTES.get(name, [])):
        assert item in real[name], item
    for item in methods(kind):
        ours = list(inspect.signature(getattr(kind, item)).parameters)[1:]
        assert ours in signatures(real[name][item], item), item
    assert properties or methods(kind) or name == "ILogger"


def test_objects_are_made_as_the_fakes_are(real: dict[str, Any]) -> None:
    assert ["logger"] in signatures(real["Runtime"]["__init__"], "__init__")
    assert [] in signatures(real["ILogger"]["__init__"], "__init__")
    assert ["severity", "msg"] in signatures(real["ILogger"]["log"], "log")


@pytest.mark.parametrize("name", [*ENUMERATIONS, "Severity"])
def test_enumerations(real: dict[str, Any], name: str) -> None:
    assert set(getattr(fake_tensorrt, name).__members__) <= set(real[name])


def test_the_version_is_the_one_of_the_fake_engines(real: dict[str, Any]) -> None:
    ours = fake_tensorrt.VERSIONS["tensorrt_rtx"].split(".")[:2]
    assert real["version"].split(".")[:2] == ours, "the fake is older than the real one: look at it again"


@pytest.mark.parametrize("name", CALLED_HERE)
def test_driver_functions_called_by_the_runtime(name: str) -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    theirs = list(inspect.signature(getattr(driver, name)).parameters)
    assert list(inspect.signature(getattr(FakeCuda, name)).parameters)[1:] == theirs
    assert list(inspect.signature(getattr(fake_tensorrt.FakeGpu, name)).parameters)[1:] == theirs
    for attribute in ("DEVICE_ORDINAL", "CONTEXT"):
        assert hasattr(driver.CUpointer_attribute, f"CU_POINTER_ATTRIBUTE_{attribute}")
