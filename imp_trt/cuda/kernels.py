"""The kernels of imp_trt.plugins: compiled for the GPU, cached on disk, loaded once per device."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
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
    "multilevel_roi_align": tuple(f"imp_multilevel_roi_align_{dtype}" for dtype in _DTYPES),
    "frame_fit": ("imp_frame_fit", "imp_semantic_back"),
}
"""Operator -> entry points of its kernels."""

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


def prepare(op: str, device: Device, stream: int | None = None) -> Module:
    """Compiles an operator's kernels, or reads them from the cache, and loads them; idempotent.

    Args:
        op: folder in plugins/.
        device: made current in this thread.
        stream: the stream that will be used; an error if it is being captured and the kernels are not loaded.

    Raises:
        DependencyMissing: no NVRTC, one newer than the driver, or one that does not support the GPU.
        BuildError: the sources do not compile.
        UsageError: the stream is being captured.
    """
    device.activate()
    module = device.modules.get(op)
    if module is None:
        if stream is not None and driver.is_capturing(stream):
            raise UsageError(
                f"the kernels of {op} are not loaded, and the stream is being captured into a CUDA graph",
                fix="run the operator once before the capture, or call prepare(device) of its launcher",
            )
        with _lock:
            module = device.modules.get(op)
            if module is None:
                # All entry points at once: the driver loads each on first use, which must not happen
                # during a capture.
                module = device.modules[op] = Module(_image(op, device), ENTRIES[op])
    return module


def load(op: str, entry: str, device: Device, stream: int | None = None) -> Kernel:
    """An entry point of an operator's kernels; arguments and errors as for `prepare`."""
    return Kernel(entry, prepare(op, device, stream).functions[entry])


def _image(op: str, device: Device) -> bytes:
    target = nvrtc.target(device.compute_capability, device.driver_version)

    def make() -> bytes:
        _log.info("compiling %s for %s with %s, once", op, target.arch, target.library.path)
        return nvrtc.compile_kernels(op, target)

    return cache.fetch(cache_key(nvrtc.program(op), target), make)


def cache_key(program: nvrtc.Program, target: nvrtc.Target) -> str:
    """Name of a compiled program in the cache."""
    files = [program.name, program.source]
    for name, text in program.headers.items():
        files += [name, text]
    major, minor = target.library.version
    return cache.key([*nvrtc.FLAGS, target.arch, f"{major}.{minor}", *files])


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
