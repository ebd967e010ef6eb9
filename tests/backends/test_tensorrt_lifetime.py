# SPDX-License-Identifier: Apache-2.0
"""Engines on a fake GPU: failures, threads, processes, closing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imp_trt.errors import (
    ArtifactError,
    DependencyMissing,
    DeviceError,
    EngineIncompatible,
    ImpTrtError,
    InvalidInput,
)
from imp_trt.results.result import SegmentationResult
from imp_trt.segmenter import Segmenter
from tests.support import tiny
from tests.support.fake_tensorrt import engine_file, fake_gpu
from tests.support.segmenters import Machine, cpu_twin, nothing_left, same

# ---- failures ----


@pytest.mark.parametrize(
    ("what", "error", "words"),
    [
        ("runtime", DeviceError, "does not start.*factory function"),
        ("deserialize", EngineIncompatible, "rejects the engine.*plan was damaged on the way"),
        ("location", ArtifactError, "differ from the manifest.*HOST"),
        ("context", DeviceError, "execution context.*out of memory"),
        ("address", DeviceError, "rejects the address"),
        ("execute", DeviceError, "cannot run the network.*an address is missing"),
    ],
)
def test_what_tensorrt_rejects_is_a_typed_error_and_leaves_nothing(
    machine: Machine, path: Path, what: str, error: type[ImpTrtError], words: str
) -> None:
    machine[0].fails.add(what)
    for _ in range(2):
        with pytest.raises(error, match=words):
            Segmenter(path)
        assert nothing_left(machine)
    machine[0].fails.clear()
    Segmenter(path).close()


def test_any_allocation_may_fail(machine: Machine, path: Path) -> None:
    _, cuda = machine
    for allowed in range(100):
        cuda.allocations_left = allowed
        failure = None
        try:
            segmenter = Segmenter(path)
            break
        except DeviceError as error:
            failure = str(error)
        assert "OUT_OF_MEMORY" in failure
        assert "free GPU memory" in failure
        assert nothing_left(machine)
    assert allowed > 4
    # And while running: the third slot is one too many.
    cuda.allocations_left = 1
    kept = [segmenter.run(tiny.frame(seed=i)) for i in range(2)]
    with pytest.raises(DeviceError, match="OUT_OF_MEMORY"):
        segmenter.run(tiny.frame(seed=2))
    cuda.allocations_left = 9
    with cpu_twin(path.parent) as cpu:
        assert same(segmenter.run(tiny.frame(seed=2)), cpu.run(tiny.frame(seed=2)))
        assert all(same(result, cpu.run(tiny.frame(seed=i))) for i, result in enumerate(kept))
    segmenter.close()
    assert nothing_left(machine)


@pytest.mark.parametrize(
    "function",
    ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoDAsync", "cuEventRecord", "cuEventSynchronize"],
)
def test_a_failing_call_is_an_error_and_the_next_frame_is_right(
    machine: Machine, path: Path, function: str
) -> None:
    with cpu_twin(path.parent) as cpu, Segmenter(path) as segmenter:
        for seed in range(3):
            machine[1].fail(function, "CUDA_ERROR_LAUNCH_FAILED")
            with pytest.raises(DeviceError, match=f"{function} failed"):
                segmenter.run(tiny.frame(seed=seed))
            assert same(segmenter.run(tiny.frame(seed=seed)), cpu.run(tiny.frame(seed=seed)))
        assert machine[1].alive["memory"] <= 4  # no slot was lost
    assert nothing_left(machine)


@pytest.mark.parametrize("function", ["cuMemcpyDtoHAsync", "cuStreamSynchronize"])
def test_a_failing_download_can_be_tried_again(machine: Machine, path: Path, function: str) -> None:
    with cpu_twin(path.parent) as cpu, Segmenter(path) as segmenter:
        result = segmenter.run(tiny.frame())
        for part in ("semantic", "instances"):
            machine[1].fail(function, "CUDA_ERROR_LAUNCH_FAILED")
            with pytest.raises(DeviceError, match=function):
                getattr(result, part)
        assert same(result, cpu.run(tiny.frame()))


def test_an_engine_that_does_not_fit_is_rejected_before_tensorrt_sees_it(tmp_path: Path) -> None:
    with fake_gpu() as (trt, _):
        trt.__version__ = "10.9.0.1"
        with pytest.raises(EngineIncompatible, match=r"10\.3\.0\.26.*10\.9\.0\.1.*imp-export"):
            Segmenter(engine_file(tmp_path))
        assert trt.gone == []
    with fake_gpu("tensorrt_rtx"), pytest.raises(DependencyMissing, match="only TensorRT-RTX"):
        Segmenter(engine_file(tmp_path))
    with fake_gpu(devices=0), pytest.raises(DependencyMissing, match="GPU") as caught:
        Segmenter(engine_file(tmp_path))
    assert caught.value.exit_code == 5


def test_an_engine_with_other_tensors_than_its_manifest_is_rejected(machine: Machine, tmp_path: Path) -> None:
    name = machine[0].__name__
    path = engine_file(tmp_path, name, tiny.graph(), manifest=tiny.manifest(2))
    with pytest.raises(ArtifactError, match=r"\[2, 64, 96, 3\].*\[1, 64, 96, 3\]"):
        Segmenter(path)
    assert nothing_left(machine)


def test_plugins_are_registered_before_the_engine_is_read(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = machine[0]
    seen: list[tuple[object, list[str]]] = []
    monkeypatch.setattr(
        "imp_trt.plugins.registration.register_plugins", lambda t: seen.append((t, list(trt.alive)))
    )
    operators = {"InstanceMaskProjection": "plugin"}
    Segmenter(engine_file(tmp_path, trt.__name__, operators=operators)).close()
    assert seen == [(trt, [])]
    Segmenter(engine_file(tmp_path, trt.__name__, operators={"InstanceMaskProjection": "function"})).close()
    assert len(seen) == 1


@pytest.mark.parametrize("form", ["python", "c++"])
def test_kernels_of_python_plugins_that_cannot_be_compiled_are_named(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    # In attach_to_context TensorRT would swallow the error, and there would be no context for no reason.
    asked: list[str] = []

    def image(op: str, device: object) -> bytes:
        asked.append(op)
        raise DependencyMissing("NVRTC 13.2 is newer than the NVIDIA driver", fix="pip install an older one")

    monkeypatch.setattr("imp_trt.cuda.kernels._image", image)
    monkeypatch.setattr("imp_trt.plugins.registration.register_plugins", lambda trt: form)
    operators = {"InstanceMaskProjection": "plugin", "ImpMultilevelRoiAlign": "function"}
    path = engine_file(tmp_path, machine[0].__name__, operators=operators)
    if form == "c++":  # its kernels are in the library
        Segmenter(path).close()
        assert asked == []
        return
    with pytest.raises(DependencyMissing, match=r"NVRTC 13\.2 is newer"):
        Segmenter(path)
    assert asked == ["instance_mask_projection:bilinear_f16"]
    assert machine[0].alive == []


# ---- threads, processes, closing ----


def in_thread(body: Any) -> list[object]:
    """What body gave or raised in another thread."""
    found: list[object] = []

    def work() -> None:
        try:
            found.append(body())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    return found


def test_the_first_thread_owns_the_segmenter(machine: Machine, path: Path) -> None:
    segmenter = Segmenter(path)  # opening it does not count
    assert isinstance(in_thread(lambda: segmenter.run(tiny.frame()))[0], SegmentationResult)
    for use in (
        lambda: segmenter.run(tiny.frame()),
        lambda: segmenter.submit(tiny.frame()),
        lambda: segmenter.run_batch([tiny.frame()]),
        segmenter.warmup,
    ):
        with pytest.raises(InvalidInput, match="one Segmenter per thread"):
            use()
    segmenter.close()
    assert nothing_left(machine)


def test_results_are_read_and_the_segmenter_closed_in_any_thread(machine: Machine, path: Path) -> None:
    with cpu_twin(path.parent) as cpu:
        segmenter = Segmenter(path)
        wanted = cpu.run(tiny.frame())
        first, second = segmenter.run(tiny.frame()), segmenter.submit(tiny.frame())
        assert in_thread(lambda: same(first, wanted)) == [True]
        assert in_thread(lambda: same(second.result(), wanted)) == [True]
        third = segmenter.run(tiny.frame())
        assert in_thread(segmenter.close) == [None]
        assert same(third, wanted)
    assert nothing_left(machine)


def test_closing_lets_those_who_wait_for_the_gpu_return_first(
    machine: Machine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = machine[1]
    segmenter = Segmenter(path)
    pending = segmenter.submit(tiny.frame())
    waits, returns = threading.Event(), threading.Event()
    real, closing = cuda.cuEventSynchronize, threading.get_ident()

    def synchronize(hEvent: int) -> Any:
        if threading.get_ident() != closing:
            waits.set()
            returns.wait(30)
        return real(hEvent)

    monkeypatch.setattr(cuda, "cuEventSynchronize", synchronize)
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(pending.result()))
    waiter.start()
    assert waits.wait(30)
    seen: list[int] = []

    def look() -> None:
        seen.append(cuda.alive["events"])
        returns.set()

    threading.Timer(0.5, look).start()
    segmenter.close()
    waiter.join(30)
    assert seen[0] > 0, "the event was destroyed while a thread was waiting for it"
    assert isinstance(found[0], SegmentationResult)
    with cpu_twin(path.parent) as cpu:
        assert same(found[0], cpu.run(tiny.frame()))
    assert nothing_left(machine)


def test_other_peoples_context_stays_current(machine: Machine, path: Path) -> None:
    cuda = machine[1]
    theirs = cuda.cuDevicePrimaryCtxRetain(0)[1]
    for current in (0, theirs):
        cuda.cuCtxSetCurrent(current)
        with Segmenter(path) as segmenter:
            assert cuda.cuCtxGetCurrent()[1] == current
            result = segmenter.run(tiny.frame())
            assert cuda.cuCtxGetCurrent()[1] == current
            assert result.semantic.shape == (64, 96)
            assert cuda.cuCtxGetCurrent()[1] == current
        assert cuda.cuCtxGetCurrent()[1] == current


def test_a_forked_process_gets_an_error_and_closes_nothing(machine: Machine, path: Path) -> None:
    segmenter = Segmenter(path)
    unread, read = segmenter.run(tiny.frame()), segmenter.run(tiny.frame())
    wanted = read.semantic.copy(), len(read.instances)
    calls = len(machine[1].calls)
    segmenter._lock._lock.acquire()  # as if another thread held it at the moment of the fork
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for use in (lambda: segmenter.run(tiny.frame()), lambda: unread.semantic):
                with pytest.raises(InvalidInput, match="process"):
                    use()
            assert np.array_equal(read.semantic, wanted[0])
            segmenter.close()
            segmenter.close()
            del segmenter
            gc.collect()
            assert len(machine[1].calls) == calls  # CUDA was not touched
            code = 0
        finally:
            os._exit(code)
    segmenter._lock._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(unread.semantic, wanted[0])  # here all is as before
    assert segmenter.run(tiny.frame()).size == (64, 96)
    segmenter.close()
    assert nothing_left(machine)


def test_closing(machine: Machine, path: Path) -> None:
    segmenter = Segmenter(path)
    segmenter.warmup(2)
    segmenter.close()
    segmenter.close()
    assert "closed" in repr(segmenter)
    for use in (lambda: segmenter.run(tiny.frame()), lambda: segmenter.submit(tiny.frame())):
        with pytest.raises(InvalidInput, match="closed"):
            use()
    assert nothing_left(machine)
    gone = [name for name in machine[0].gone if name in ("IExecutionContext", "ICudaEngine", "Runtime")]
    assert gone == ["IExecutionContext", "ICudaEngine", "Runtime"]


def test_an_unclosed_segmenter_is_released_when_it_is_collected(machine: Machine, path: Path) -> None:
    result = Segmenter(path).run(tiny.frame())
    gc.collect()
    assert machine[0].alive  # its result has not been read
    assert result.semantic.shape == (64, 96)
    assert len(result.instances) == 2
    gc.collect()
    assert nothing_left(machine)
    dropped = Segmenter(path)
    dropped.run(tiny.frame())
    gone = weakref.ref(dropped)
    del dropped
    gc.collect()
    assert gone() is None
    assert nothing_left(machine)


def test_the_gpu_fails_while_closing(machine: Machine, path: Path) -> None:
    segmenter = Segmenter(path)
    unread = segmenter.run(tiny.frame())
    machine[1].fail("cuMemcpyDtoHAsync", "CUDA_ERROR_LAUNCH_FAILED")
    segmenter.close()
    for part in ("semantic", "instances"):
        with pytest.raises(DeviceError, match="cuMemcpyDtoHAsync"):
            getattr(unread, part)
    assert nothing_left(machine)


@pytest.mark.slow
def test_a_process_that_closes_nothing_ends_quietly(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from imp_trt.segmenter import Segmenter\n"
        "from tests.support import tiny\n"
        "from tests.support.fake_tensorrt import engine_file, fake_gpu\n"
        "machine = fake_gpu()\n"
        "trt, cuda = machine.__enter__()\n"
        "segmenter = Segmenter(engine_file(pathlib.Path(sys.argv[1])))\n"
        "unread = segmenter.run(tiny.frame())\n"
        "print(sum(cuda.alive.values()) > 0, flush=True)\n"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(run, capture_output=True, text=True, cwd=root, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
