# SPDX-License-Identifier: Apache-2.0
"""imp_trt's driver code through the compiled cuda.bindings: what arrives in a driver library written in C."""

from __future__ import annotations

import re
import shutil
from collections import Counter

import numpy as np
import pytest

from imp_trt.cuda import kernels
from imp_trt.cuda.driver import Device
from tests.support.driver_session import (
    LARGEST,
    PITCH,
    POINTERS,
    STREAM,
    build_stub,
    image,
    launch_everything,
    run_child,
)
from tests.support.fake_cuda import FakeCuda


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What Python saw, and the lines of the stub."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    folder = tmp_path_factory.mktemp("stub")
    build_stub(folder)
    saw = run_child(folder, folder / "log")
    return saw, (folder / "log").read_text().splitlines()


def test_python_sees_what_the_library_answers(session):
    saw, _ = session
    assert saw["device"] == [1, "stub GPU 1", [8, 7], [13, 2]]
    assert saw["reached"] == [False, None, None, True]
    assert saw["elapsed"] == 1.5
    assert saw["copied"] == [*range(8), *range(32, 48), *range(24, 40), *range(40, 48)]
    assert saw["context"][0] != 0
    assert len(set(saw["context"])) == 1
    assert saw["ordinal"] == [1, 1]
    assert saw["current"] == [1, True]
    assert saw["recorded"] == [False, True]


def test_the_library_gets_handles_flags_and_sizes(session):
    saw, log = session
    stream, mark, end = (f"{handle:#x}" for handle in (saw["stream"], *saw["marks"]))
    for line in (
        f"+ stream {stream} 1",  # non-blocking
        f"+ event {mark} 0",
        f"+ event {end} 2",  # without timing
        f"mark {mark} {stream}",
        f"wait {stream} {end} 0",
        f"in 48 {stream}",
        f"within 16 {stream}",
        f"out 40 {stream}",
        f"synchronize {stream}",
        f"record {stream} mode 1",  # only this thread is restricted
    ):
        assert line in log
    assert {f"elapsed {mark} {end}", f"elapsed {mark} {end} v2"} & set(log)  # v2: cuda-bindings 13
    assert any(re.fullmatch(rf"replay 0x\w+ {stream}", line) for line in log)
    assert any(re.fullmatch(r"\+ pinned 0x\w+ 481", line) for line in log)  # 48 bytes, flag 1: every context


def test_the_arguments_of_every_kernel_arrive(session, monkeypatch):
    """As the stand-in for the driver, with which the other tests work, has them."""
    monkeypatch.setattr(kernels, "_image", image)
    names = [name for entries in kernels.ENTRIES.values() for name in entries]
    with FakeCuda(kernels=dict.fromkeys(names, print)).installed() as fake:
        launch_everything(STREAM, Device.open())
    expected = []
    for launch in fake.launches:
        values = [f"{np.float32(v):.9g}" if isinstance(v, float) else str(v) for v in launch.values]
        sizes = map(str, (*launch.grid, *launch.block, hex(launch.stream)))
        expected.append(" ".join(["launch", launch.entry, *sizes, *values]))
    assert sorted(launch.entry for launch in fake.launches) == sorted(names)
    assert [line for line in session[1] if line.startswith("launch")] == expected
    values = {line.split()[1]: line.partition(" 0x2 ")[2] for line in expected}
    high, top = POINTERS[2:4]
    assert values["imp_frame_fit"] == f"{high} {top} {PITCH} 20 30 60 90 64 96 1 114"
    assert values["imp_frame_fit_nv12"] == (
        f"{high} 48 {top} {PITCH} {PITCH + 1} 20 30 60 90 64 96 114 16 1 2 -3 -4 {LARGEST}"
    )
    assert values["imp_semantic_back"] == f"{top} 0 64 96 60 90 20 30"
    assert values["imp_multilevel_roi_align_bf16"] == (
        f"0 16 {high} {top} 48 64 2 3 40 50 70 25 35 13 18 7 9 7 0 -4 {LARGEST} 0"
    )
    assert values["imp_mask_projection_backward_rect_f16"] == (
        f"0 16 {high} {top} 48 64 80 96 8 2 3 4 50 70 28 0.100000001"
    )


def test_errors_name_function_status_and_text(session):
    device, memory, launch, capture, module = session[0]["errors"]
    assert device == "DependencyMissing: GPU number 7: got 2 GPUs"
    assert memory.startswith(
        "DeviceError: cuMemAlloc failed: got CUDA_ERROR_OUT_OF_MEMORY (too much). Fix: free GPU memory"
    )
    assert launch == capture == "DeviceError: cuLaunchKernel failed: got CUDA_ERROR_INVALID_VALUE (other)"
    assert module == "DeviceError: cuModuleGetFunction failed: got CUDA_ERROR_NOT_FOUND (other)"


def test_everything_opened_is_released_once(session):
    events = [line.split()[:3] for line in session[1] if line[0] in "+-"]
    opened, released = (Counter((what, h) for s, what, h in events if s == sign) for sign in "+-")
    assert opened == released
    counts = Counter(what for what, _ in opened.elements())
    assert counts == {
        **dict(context=1, stream=1, event=2, memory=1, pinned=1),
        # Mask projection is nine modules; one module and one graph are of the errors.
        **dict(module=12, graph=2, executable=1),
    }
