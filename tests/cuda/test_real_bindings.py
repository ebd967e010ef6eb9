"""imp_trt's driver code through the compiled cuda.bindings: what arrives in a driver library written in C.

The library is tests/support/stub_libcuda.c. The loader looks for it where LD_LIBRARY_PATH pointed when the
process started: hence a child process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import astuple
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from imp_trt.cuda import driver, kernels
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, Graph, Module, PinnedBuffer, Stream
from imp_trt.errors import ImpTrtError
from imp_trt.ops.mask_projection import cuda as mask_projection_cuda
from imp_trt.ops.roi_align import cuda as multilevel_roi_align_cuda
from imp_trt.preprocessing import letterbox_cuda as frame_fit
from imp_trt.preprocessing.letterbox import Fit
from tests.support.fake_cuda import FakeCuda

ROOT = Path(__file__).parents[2]
POINTERS = (0, 16, 0x7FFFFFFFFFF0, 1 << 62, 48, 64, 80, 96)
PITCH = (1 << 32) + 96  # bytes of a row: more than 32 bits
LARGEST = 2**31 - 1
STREAM = 2  # a handle that means the same to every driver: the stream of the thread
FIT = Fit((20, 30), (64, 96), (60, 90), 114)


def image(op, device=None):
    """What the stub takes for a compiled module: entry points and the kinds of their parameters."""
    kinds = {"imp_frame_fit": "ppl" + "iiiiiiii", "imp_semantic_back": "pp" + "iiiiii"}
    for entry in kernels.ENTRIES[op]:
        if entry.startswith("imp_mask_projection"):
            kinds[entry] = "p" * (8 if "_backward_" in entry else 5) + "iiiiiii" + "f"
        elif entry.startswith("imp_multilevel"):
            kinds[entry] = "pppppp" + "iii" + "iiiiiiii" + "iiii"
    return "".join(f"{entry} {kinds[entry]}\n" for entry in kernels.ENTRIES[op]).encode()


def launch_everything(stream, device):
    """Every entry point once, by the launchers that the product uses."""
    frame_fit.launch_fit(FIT, POINTERS[2], PITCH, True, POINTERS[3], 114, stream, device)
    frame_fit.launch_semantic_back(FIT, POINTERS[3], POINTERS[0], stream, device)
    for dtype in ("f32", "f16", "bf16"):
        multilevel_roi_align_cuda.launch_multilevel_roi_align(
            *POINTERS[:6],
            **dict(batch=2, boxes_per_image=3, channels=40, output_size=7, sampling_ratio=0),
            **dict(sizes=[(50, 70), (25, 35), (13, 18), (7, 9)], canonical_level=-4, canonical_size=LARGEST),
            **dict(dtype=dtype, stream=stream, device=device),
        )
    for rule, dtype in product(("bilinear", "nearest", "rect"), ("f32", "f16", "bf16")):
        call = mask_projection_cuda.Call(8, 2, 3, 4, 50, 70, 28, 0.1, rule, dtype)
        for kind in ("", "_winner"):
            name = f"imp_mask_projection{kind}"
            mask_projection_cuda._launch_tiles(name, POINTERS[:5], call, stream, device)
        mask_projection_cuda._launch_backward(POINTERS, call, stream, device)


def refused(work, *arguments):
    """The error as the user reads it."""
    with pytest.raises(ImpTrtError) as error:
        work(*arguments)
    return f"{type(error.value).__name__}: {error.value}"


def drive():
    """In the child: what Python sees of a session on the stub, for the parent to look at."""
    kernels._image = image
    device = Device.open(1)
    stream, mark, end = Stream(device), Event(timing=True), Event()
    memory, pinned = DeviceBuffer(64), PinnedBuffer(48)
    saw = {"device": astuple(device.info), "stream": stream.handle, "marks": [mark.handle, end.handle]}
    saw["reached"] = [mark.query(), mark.record(stream.handle), mark.synchronize(), mark.query()]
    saw["elapsed"] = end.elapsed_ms(mark)
    driver.call("cuStreamWaitEvent", stream.handle, end.handle, 0)

    pinned.array[:] = range(48)
    driver.copy_in(memory.pointer, pinned.pointer, 48, stream.handle)
    driver.copy_on_device(memory.pointer + 8, memory.pointer + 32, 16, stream.handle)
    driver.copy_out(pinned.pointer, memory.pointer, 40, stream.handle)
    stream.synchronize()
    saw["copied"] = pinned.array.tolist()
    attribute = driver.bindings().CUpointer_attribute
    context = driver.call("cuPointerGetAttribute", attribute.CU_POINTER_ATTRIBUTE_CONTEXT, 64)
    saw["context"] = [int(context), int(driver.call("cuCtxGetCurrent")), int(device._context)]
    ordinal = attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    saw["ordinal"] = [int(driver.call("cuPointerGetAttribute", ordinal, 1 << 62))]
    saw["ordinal"].append(int(driver.call("cuCtxGetDevice")))

    launch_everything(STREAM, device)
    recorded = []
    graph = Graph.capture(stream.handle, lambda: recorded.append(driver.is_capturing(stream.handle)))
    graph.launch(stream.handle)
    saw["recorded"] = [driver.is_capturing(stream.handle), *recorded]

    kernel = kernels.load("frame_fit", "imp_semantic_back", device)
    nothing = ((0, 1, 1), (1, 1, 1), stream.handle, [])
    saw["errors"] = [
        refused(driver.device_info, 7),
        refused(DeviceBuffer, 1 << 60),
        refused(kernel.launch, *nothing),
        refused(Graph.capture, stream.handle, lambda: kernel.launch(*nothing)),
        refused(Module, image("frame_fit"), ["imp_frame_fit", "imp_frame"]),
    ]
    for thing in (graph, stream, mark, end, memory, pinned, device) * 2:
        thing.close()
    print(json.dumps(saw))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """What Python saw, and the lines of the stub."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    folder = tmp_path_factory.mktemp("stub")
    source, log = ROOT / "tests/support/stub_libcuda.c", folder / "log"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, source, "-o", folder / "libcuda.so.1", "-ldl"], check=True)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": path, "STUB_LIBCUDA_LOG": str(log)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout), log.read_text().splitlines()


def test_python_sees_what_the_library_answers(session):
    saw, _ = session
    assert saw["device"] == [1, "stub GPU 1", [8, 7], [13, 2]]
    assert saw["reached"] == [False, None, None, True]
    assert saw["elapsed"] == 1.5
    assert saw["copied"] == [*range(8), *range(32, 48), *range(24, 40), *range(40, 48)]
    assert saw["context"][0] != 0
    assert len(set(saw["context"])) == 1
    assert saw["ordinal"] == [1, 1]
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
        f"elapsed {mark} {end}",
        f"in 48 {stream}",
        f"within 16 {stream}",
        f"out 40 {stream}",
        f"synchronize {stream}",
        f"record {stream} mode 1",  # only this thread is restricted
    ):
        assert line in log
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
    assert values["imp_semantic_back"] == f"{top} 0 64 96 60 90 20 30"
    assert values["imp_multilevel_roi_align_bf16"] == (
        f"0 16 {high} {top} 48 64 2 3 40 50 70 25 35 13 18 7 9 7 0 -4 {LARGEST}"
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
        **dict(module=4, graph=2, executable=1),  # one module and one graph are of the errors
    }


if __name__ == "__main__":
    drive()
