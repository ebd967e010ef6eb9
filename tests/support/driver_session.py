# SPDX-License-Identifier: Apache-2.0
"""A session on tests/support/stub_libcuda.c through the compiled cuda.bindings, in a process of its own.

The loader looks for the driver's library where LD_LIBRARY_PATH pointed when the process started: hence a
child process. It prints what Python saw of the session as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from itertools import product
from pathlib import Path

from imp_trt.cuda import driver, kernels
from imp_trt.cuda.driver import Device, DeviceBuffer, Event, Graph, Module, PinnedBuffer, Stream
from imp_trt.errors import ImpTrtError
from imp_trt.ops.mask_projection import cuda as mask_projection_cuda
from imp_trt.ops.roi_align import cuda as multilevel_roi_align_cuda
from imp_trt.preprocessing import letterbox_cuda as frame_fit
from imp_trt.preprocessing.device_arrays import DeviceChroma, DeviceFrame
from imp_trt.preprocessing.letterbox import LetterboxTransform
from imp_trt.preprocessing.nv12 import YuvToBgr

ROOT = Path(__file__).parents[2]
POINTERS = (0, 16, 0x7FFFFFFFFFF0, 1 << 62, 48, 64, 80, 96)
PITCH = (1 << 32) + 96  # bytes of a row: more than 32 bits
LARGEST = 2**31 - 1
STREAM = 2  # a handle that means the same to every driver: the stream of the thread
FIT = LetterboxTransform((20, 30), (64, 96), (60, 90), 114)
CHROMA = DeviceChroma(POINTERS[4], PITCH + 1, YuvToBgr(16, 1, 2, -3, -4, LARGEST))
NV12 = DeviceFrame(POINTERS[2], (20, 30), PITCH, None, CHROMA)


def image(op, device=None):
    """What the stub takes for a compiled module: entry points and the kinds of their parameters."""
    kinds = {
        "imp_frame_fit": "ppl" + "iiiiiiii",
        "imp_frame_fit_nv12": "pppll" + "iiiiiii" + "iiiiii",
        "imp_semantic_back": "pp" + "iiiiii",
    }
    op = op.partition(":")[0]
    for entry in kernels.ENTRIES[op]:
        if entry.startswith("imp_mask_projection"):
            kinds[entry] = "p" * (8 if "_backward_" in entry else 5) + "iiiiiii" + "f"
        elif entry.startswith("imp_multilevel"):
            kinds[entry] = "pppppp" + "iii" + "iiiiiiii" + "iiiii"
    return "".join(f"{entry} {kinds[entry]}\n" for entry in kernels.ENTRIES[op]).encode()


def launch_everything(stream, device):
    """Every entry point once, by the launchers that the product uses."""
    frame_fit.launch_letterbox(FIT, POINTERS[2], PITCH, True, POINTERS[3], 114, stream, device)
    frame_fit.launch_letterbox_nv12(FIT, NV12, POINTERS[3], 114, stream, device)
    frame_fit.launch_invert_mask(FIT, POINTERS[3], POINTERS[0], stream, device)
    for dtype, layout in [*product(("f16", "bf16"), ("linear", "hwc8")), ("f32", "linear")]:
        multilevel_roi_align_cuda.launch_multilevel_roi_align(
            *POINTERS[:6],
            **dict(batch=2, boxes_per_image=3, channels=40, output_size=7, sampling_ratio=0),
            **dict(sizes=[(50, 70), (25, 35), (13, 18), (7, 9)], canonical_level=-4, canonical_size=LARGEST),
            **dict(dtype=dtype, layout=layout, stream=stream, device=device),
        )
    for rule, dtype in product(("bilinear", "nearest", "rect"), ("f32", "f16", "bf16")):
        call = mask_projection_cuda.Call(8, 2, 3, 4, 50, 70, 28, 0.1, rule, dtype)
        for kind in ("", "_winner"):
            name = f"imp_mask_projection{kind}"
            mask_projection_cuda._launch_tiles(name, POINTERS[:5], call, stream, device)
        mask_projection_cuda._launch_backward(POINTERS, call, stream, device)


def rejected(work, *arguments):
    """The error as the user reads it."""
    try:
        work(*arguments)
    except ImpTrtError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{work} took {arguments}")


def drive():
    """What Python sees of a session that calls every function of the driver that imp_trt calls."""
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

    saw["current"] = [kernels.current_device().index, kernels.current_device() is kernels.current_device()]

    launch_everything(STREAM, device)
    recorded = []
    graph = Graph.capture(stream.handle, lambda: recorded.append(driver.is_capturing(stream.handle)))
    graph.launch(stream.handle)
    saw["recorded"] = [driver.is_capturing(stream.handle), *recorded]

    kernel = kernels.load("frame_fit", "imp_semantic_back", device)
    nothing = ((0, 1, 1), (1, 1, 1), stream.handle, [])
    saw["errors"] = [
        rejected(driver.device_info, 7),
        rejected(DeviceBuffer, 1 << 60),
        rejected(kernel.launch, *nothing),
        rejected(Graph.capture, stream.handle, lambda: kernel.launch(*nothing)),
        rejected(Module, image("frame_fit"), ["imp_frame_fit", "imp_frame"]),
    ]
    for thing in (graph, stream, mark, end, memory, pinned, device) * 2:
        thing.close()
    return saw


def build_stub(folder):
    """Compiles the stub into a folder; needs gcc."""
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC"]
    source = ROOT / "tests/support/stub_libcuda.c"
    subprocess.run(["gcc", *flags, source, "-o", folder / "libcuda.so.1", "-ldl"], check=True)


def run_child(
    stub: Path,
    log: Path | str = os.devnull,
    version: int | None = None,
    module: str = __name__,
    packages: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
):
    """Runs a module on the stub.

    Args:
        stub: folder of the stub's library.
        log: file for the lines of the stub.
        version: CUDA that the driver knows, 12060; None for the stub's own.
        module: what the child runs; prints JSON.
        packages: folders of packages that go before the installed ones.
        environment: more variables.

    Returns:
        The standard output as data.
    """
    old = [os.environ.get(name) for name in ("LD_LIBRARY_PATH", "PYTHONPATH")]
    variables = {
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(stub), old[0]])),
        "PYTHONPATH": os.pathsep.join(filter(None, [*map(str, packages), old[1]])),
        "STUB_LIBCUDA_LOG": str(log),
        **({} if version is None else {"STUB_LIBCUDA_VERSION": str(version)}),
        **(environment or {}),
    }
    child = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


if __name__ == "__main__":
    print(json.dumps(drive()))
