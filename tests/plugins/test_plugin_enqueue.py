# SPDX-License-Identifier: Apache-2.0
"""The runtime interface of the Python plugins on a stand-in for the CUDA driver."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the package torch")

from tests.support import rtx_enqueue
from tests.support.plugin_cases import TOLERANCES, mask_projection_case, roi_align_case
from tests.support.rtx import run_rtx
from tests.support.stub_packages import needs_rtx

# All share one process with PyTorch and TensorRT-RTX, of some seconds.
pytestmark = [pytest.mark.slow, needs_rtx]

# case -> what goes wrong in it
CALLS = {
    "bilinear f16": None,
    "rect bf16": None,
    "roi_align f32": None,
    "adaptive f32": None,
    "nearest bf16": "context",
    "roi_align bf16": "context",
    "nearest f32": "boxes",
    "nearest f16": "driver",
    "roi_align f16": "memory",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All calls in one process, because it needs PyTorch."""
    folder = tmp_path_factory.mktemp("cases")
    calls = []
    for name, changed in CALLS.items():
        kind, element = name.split()
        if kind in ("roi_align", "adaptive"):
            case = roi_align_case(folder / name, element, 0 if kind == "adaptive" else 2)
        else:
            case = mask_projection_case(folder / name, kind, element, "i64")
        calls.append((str(case), changed))
    answers, log = run_rtx(rtx_enqueue.enqueue, calls)
    return {**dict(zip(CALLS, answers, strict=True)), "log": {"text": log}}


@pytest.mark.parametrize("name", ["bilinear f16", "rect bf16", "roi_align f32", "adaptive f32"])
def test_the_result_under_capture_is_right(results: dict[str, Any], name: str) -> None:
    result = results[name]
    assert "error" not in result
    absolute, relative = TOLERANCES[name.split()[1]]
    assert result["worst"] <= absolute + relative * max(1.0, result["largest"])
    # While a stream is captured nothing may be allocated, loaded or waited for.
    assert not [
        call for call in result["calls"] if "Alloc" in call or "Load" in call or "Synchronize" in call
    ]


@pytest.mark.parametrize("name", ["nearest bf16", "roi_align bf16"])
def test_plugins_run_in_the_context_of_the_caller(results: dict[str, Any], name: str) -> None:
    """One that PyCUDA's autoinit made, for instance: its streams take no kernels of another context."""
    result = results[name]
    assert "error" not in result
    absolute, relative = TOLERANCES[name.split()[1]]
    assert result["worst"] <= absolute + relative * max(1.0, result["largest"])
    assert result["same_context"]


@pytest.mark.parametrize(
    ("name", "error", "logged"),
    [
        (
            "nearest f32",
            "InvalidInput: boxes, scores",
            "InstanceMaskProjection.on_shape_change: boxes, scores",
        ),
        ("nearest f16", "DeviceError: cuLaunchKernel", "InstanceMaskProjection.enqueue: cuLaunchKernel"),
        ("roi_align f16", "UsageError", "ImpMultilevelRoiAlign.enqueue: the kernels of"),
    ],
    ids=["shapes that do not fit", "a launch that fails", "a capture before anything is prepared"],
)
def test_errors_are_raised_and_logged(results: dict[str, Any], name: str, error: str, logged: str) -> None:
    assert results[name]["error"].startswith(error)
    assert logged in results["log"]["text"]
