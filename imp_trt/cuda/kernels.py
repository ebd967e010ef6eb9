# SPDX-License-Identifier: Apache-2.0
"""The kernels of imp_trt.plugins: compiled for the GPU, cached on disk, loaded once per device."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection, Sequence
from functools import lru_cache
from types import ModuleType

from imp_trt.cuda import cache, driver, nvrtc
from imp_trt.cuda.driver import Device, Module
from imp_trt.errors import UsageError

_log = logging.getLogger(__name__)

Dim3 = tuple[int, int, int]

_CONSTANT = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(IMP_\w+)[ \t]+(\d+)[ \t]*(?://.*)?$", re.MULTILINE)

_DTYPES = ("f32", "f16", "bf16")

ENTRIES: dict[str, tuple[str, ...]] = {
    "instance_mask_projection": tuple(
        f"imp_mask_projection{kind}_{rule}_{dtype}"
        for kind in ("", "_winner", "_backward")
        for rule in ("bilinear", "nearest", "rect")
        for dtype in _DTYPES
    ),
    "multilevel_roi_align": tuple(
        f"imp_multilevel_roi_align_{kind}" for kind in (*_DTYPES, "hwc8_f16", "hwc8_bf16")
    ),
    "frame_fit": ("imp_frame_fit", "imp_frame_fit_nv12", "imp_semantic_back"),
}
"""Operator -> entry points of its kernels."""

_SPLIT = (
    "instance_mask_projection"  # its kernels take long to compile: each rule and type is a program of its own
)

_lock = threading.RLock()
_shared: dict[tuple[ModuleType, int], Device] = {}  # (bindings, index of the GPU) -> its primary context
_current: dict[tuple[ModuleType, int], Device] = {}  # (bindings, id of a context) -> that context


class Kernel:
    """An entry point loaded on a device."""

    def __init__(self, entry: str, function: object) -> None:
        self.entry = entry
        self._function = function

    def launch(self, grid: Dim3, block: Dim3, stream: int, args: Sequence[tuple[object, object]]) -> None:
        """Enqueues the kernel.

        Args:
            grid: blocks along x, y and z.
            block: threads along x, y and z.
            stream: handle of a stream of the kernel's device, whose context is current in this thread.
            args: (value, ctypes type) of each parameter, in order; a pointer is an int of type c_void_p.

        Raises:
            DeviceError: CUDA rejects the launch.
        """
        parameters = (tuple(value for value, _ in args), tuple(kind for _, kind in args))
        driver.call("cuLaunchKernel", self._function, *grid, *block, 0, stream, parameters, 0)


def prepare(op: str, device: Device, variants: Collection[str] | None = None) -> None:
    """Compiles, or takes from the cache, and loads an operator's kernels. The second call is free.

    Args:
        op: folder in plugins/.
        device: made current in this thread.
        variants: see `variant_of`; None for all.

    Raises:
        DependencyMissing: no NVRTC, one newer than the driver, or one that does not support the GPU.
        BuildError: the sources do not compile.
    """
    for variant in {variant_of(op, entry): None for entry in ENTRIES[op]} if variants is None else variants:
        _module(op, variant, device, None)


def variant_of(op: str, entry: str) -> str:
    """What of an operator's kernels is compiled with an entry point: "bilinear_f16"; "" for all of them."""
    return "_".join(entry.split("_")[-2:]) if op == _SPLIT else ""


def load(op: str, entry: str, device: Device, stream: int | None = None) -> Kernel:
    """An entry point of an operator's kernels, with what is compiled with it; else as `prepare`.

    Args:
        op: folder in plugins/.
        entry: name of the kernel.
        device: made current in this thread.
        stream: one that is about to be used; loading while it records a graph is rejected.

    Raises:
        UsageError: the stream is recording.
    """
    return Kernel(entry, _module(op, variant_of(op, entry), device, stream).functions[entry])


def _module(op: str, variant: str, device: Device, stream: int | None) -> Module:
    device.activate()
    unit = f"{op}:{variant}" if variant else op
    module = device.modules.get(unit)
    if module is None:
        if stream is not None and driver.is_capturing(stream):
            raise UsageError(
                f"the kernels of {op} are not loaded, and the stream is being captured into a CUDA graph",
                fix="run the operator once before the capture, or call prepare(device) of its launcher",
            )
        with _lock:
            module = device.modules.get(unit)
            if module is None:
                # All entry points at once: the driver loads each when it is asked for, and must not be
                # asked while a graph is recorded.
                entries = [entry for entry in ENTRIES[op] if variant_of(op, entry) == variant]
                module = device.modules[unit] = Module(_image(unit, device), entries)
    return module


def unit_program(unit: str) -> nvrtc.Program:
    """The source of an operator, "frame_fit", or of one variant, "instance_mask_projection:bilinear_f16"."""
    op, _, variant = unit.partition(":")
    program = nvrtc.program(op)
    if not variant:
        return program
    rule, dtype = variant.split("_")
    chosen = f"#define IMP_MP_ONLY_RULE {rule}\n#define IMP_MP_ONLY_DTYPE {dtype}\n"
    return program._replace(source=chosen + program.source)


def _image(unit: str, device: Device) -> bytes:
    target = nvrtc.target(device.compute_capability, device.driver_version)
    program = unit_program(unit)

    def make() -> bytes:
        _log.info("compiling %s for %s by %s, once", unit, target.arch, target.library.path)
        return nvrtc.compile_program(program, target)

    return cache.fetch(cache_key(program, target), make)


def cache_key(program: nvrtc.Program, target: nvrtc.Target) -> str:
    """Name of a compiled program in the cache."""
    files = [program.name, program.source]
    for name, text in program.headers.items():
        files += [name, text]
    return cache.key([*nvrtc.FLAGS, target.arch, target.library.build, *files])


@lru_cache(maxsize=16)
def geometry(op: str) -> dict[str, int]:
    """The IMP_* integer constants of an operator's own header: tile and block sizes."""
    headers = nvrtc.program(op).headers
    own = [text for name, text in headers.items() if name.rsplit("/", 1)[-1] == f"{op}.h"]
    return {name: int(value) for text in own for name, value in _CONSTANT.findall(text)}


def shared_device(index: int) -> Device:
    """GPU number index for PyTorch and plugins, opened once per process and never closed.

    Raises:
        DependencyMissing: no driver or no such GPU.
    """
    owner = (driver.bindings(), index)
    device = _shared.get(owner)
    if device is None:
        with _lock:
            device = _shared.get(owner)
            if device is None:
                device = _shared[owner] = Device.open(index)
    return device


def current_device() -> Device:
    """The current context of this thread, with the kernels that are loaded into it.

    For plugins, which run in the context of the program that calls TensorRT: kernels of another context
    cannot be launched on its streams.

    Raises:
        DependencyMissing: no driver.
        DeviceError: no context is current.
    """
    # Ids are never reused, unlike handles: a new context may have the handle of a destroyed one.
    owner = (driver.bindings(), int(driver.call("cuCtxGetId", driver.call("cuCtxGetCurrent"))))
    device = _current.get(owner)
    if device is None:
        with _lock:
            device = _current.get(owner)
            if device is None:
                device = _current[owner] = Device.current()
    return device
