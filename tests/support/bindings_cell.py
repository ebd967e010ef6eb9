# SPDX-License-Identifier: Apache-2.0
"""The Python plugins on one version of NVIDIA's bindings: the process of one cell of the matrix.

``python -m tests.support.bindings_cell VERSION NUMPY RESULTS LIBRARY CASE_FOLDER...`` writes a line
``{"step", "case", "error", "note"}`` for each step of each case to the file RESULTS; error is None where the
step passed. LIBRARY is the stand-in's libnvinfer, see tests/support/bindings_stub. The lines end where the
process dies.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.plugin_cases import Case, decoded, encoded, read_case

DRIVEN = (
    "create",
    "reject",
    "text",
    "capabilities",
    "types",
    "shapes",
    "formats",
    "configure",
    "reshape",
    "serialize",
    "clone",
    "destroy",
)
"""Checks of the C++ driver."""

STEPS = ("import", "register", "api", *DRIVEN, "unbound", "python", "enqueue", "context")
"""In the order in which they run.

import: the versions are those asked for.
register: the creators are in the registry, with their fields.
api: every name that imp_trt uses is there, with the arity it is called with; the note has names that are not,
    and that imp_trt asks for before it uses them.
unbound: the fields are read outside a bound function, as from a thread of TensorRT's own.
python: the fields are read and passed on in Python.
enqueue: results on the stand-in for the CUDA driver.
context: the caller's CUDA context stays current.
"""


def fake_cuda() -> Any:
    """FakeCuda with the kernels."""
    from tests.support.fake_cuda import FakeCuda
    from tests.support.fake_kernels import kernels

    return FakeCuda(kernels=kernels())


class Driver:
    """The C++ driver; a method raises AssertionError with what went wrong."""

    def __init__(self, library: Path, trt: Any) -> None:
        self._library = ctypes.CDLL(str(library))  # lets the GIL go, as TensorRT's callers do
        for name in ("harness_error", "harness_attach"):
            getattr(self._library, name).restype = ctypes.c_char_p if "error" in name else ctypes.c_void_p
        self._registry = trt.get_plugin_registry()

    def log(self, message: str) -> None:
        self._library.harness_log(message.encode())

    def check(self, name: str, folder: Path) -> None:
        """A check within a bound function."""
        self._registry.load_library(f"{name} {folder}")
        self._require()

    def check_unbound(self, name: str, folder: Path) -> None:
        self._library.harness_run(f"{name} {folder}".encode())
        self._require()

    def attach(self, folder: Path) -> int:
        handle = self._library.harness_attach(str(folder).encode())
        self._require()
        return int(handle)

    def reshape(self, handle: int) -> None:
        self._library.harness_reshape(ctypes.c_void_p(handle))
        self._require()

    def enqueue(self, handle: int, inputs: list[int], output: int, stream: int) -> None:
        pointers = (ctypes.c_void_p * len(inputs))(*inputs)
        arguments = [ctypes.c_void_p(value) for value in (handle, output, stream)]
        self._library.harness_enqueue(arguments[0], pointers, *arguments[1:])
        self._require()

    def release(self, handle: int) -> None:
        self._library.harness_release(ctypes.c_void_p(handle))

    def _require(self) -> None:
        error = self._library.harness_error().decode(errors="replace")
        assert not error, error


class _Forward(logging.Handler):
    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def emit(self, record: logging.LogRecord) -> None:
        self._driver.log(record.getMessage())


class Cell:
    """What the steps share; `run` calls each."""

    def __init__(self, results: Path, library: Path, folders: list[Path]) -> None:
        self._results = results.open("a")
        self._folders = folders
        self._library = library
        self._trt: Any = None

    def run(self, version: str, numpy_version: str) -> None:
        if not self._step("import", None, lambda: self._import(version, numpy_version)):
            return  # nothing else can be said
        self._driver = Driver(self._library, self._trt)
        logging.getLogger("imp_trt.plugins").addHandler(_Forward(self._driver))
        self._step("register", None, self._register)
        self._step("api", None, self._api)
        with fake_cuda().installed(), _nothing_compiled():
            from imp_trt.cuda.driver import Device

            Device.open()
            for name in DRIVEN:
                for folder in self._folders:
                    self._step(name, folder, lambda n=name, f=folder: self._driver.check(n, f))
            for folder in self._folders:
                self._step("unbound", folder, lambda f=folder: self._driver.check_unbound("serialize", f))
                self._step("python", folder, lambda f=folder: self._fields_in_python(read_case(f)))
        for folder in self._folders:
            self._step("enqueue", folder, lambda f=folder: self._enqueue(f))
            self._step("context", folder, lambda f=folder: self._context(f))

    def _step(self, name: str, folder: Path | None, function: Callable[[], str | None]) -> bool:
        error = note = None
        try:
            note = function()
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}".removeprefix("AssertionError: ")
        case = "" if folder is None else folder.name
        self._results.write(
            json.dumps({"step": name, "case": case, "error": error, "note": note or ""}) + "\n"
        )
        self._results.flush()
        return error is None

    def _import(self, version: str, numpy_version: str) -> None:
        import tensorrt as trt

        assert trt.__version__ == version, trt.__version__
        assert np.__version__.startswith(numpy_version), np.__version__
        self._trt = trt

    def _register(self) -> None:
        from imp_trt.plugins.registration import operators, register_plugins

        assert [register_plugins(self._trt) for _ in range(2)] == ["python", "python"]
        creators = self._trt.get_plugin_registry().all_creators
        found = {creator.name: [field.name for field in creator.field_names] for creator in creators}
        wanted = {one.NAME: [field.name for field in dataclasses.fields(one)] for one in operators()}
        assert found == wanted, found

    def _api(self) -> str:
        from tests.support import tensorrt_names as names

        trt = self._trt
        lacking = names.missing(trt) + names.unknown_members(trt) + names.unimplemented(trt)
        assert not lacking, "; ".join(lacking)
        return ", ".join(names.guarded(trt))

    def _fields_in_python(self, case: Case) -> None:
        from tests.support import plugin_objects

        plugin = plugin_objects.create(self._trt, case.operator, case.fields)
        assert plugin is not None, "create_plugin returned None"
        fields = plugin.get_fields_to_serialize()
        # Not the values: before 10.16 the bindings show NumPy 2 the first letter of a text again and again.
        assert [field.name for field in fields] == list(case.fields)
        again = plugin_objects.create_again(self._trt, case.operator, fields)
        assert again is not None, "create_plugin of the fields returned None"
        assert again.timing_cache_id == plugin.timing_cache_id, again.timing_cache_id

    def _enqueue(self, folder: Path) -> None:
        from imp_trt.cuda.driver import Device, DeviceBuffer, Graph, Stream

        case = read_case(folder)
        with fake_cuda().installed() as fake, _nothing_compiled():
            device = Device.open()
            handle = self._driver.attach(folder)
            self._driver.reshape(handle)
            buffers = [DeviceBuffer(len(data)) for data in case.data]
            for buffer, data in zip(buffers, case.data, strict=True):
                fake.array(buffer.pointer, (len(data),), np.uint8)[:] = np.frombuffer(data, np.uint8)
            size = len(encoded(case.expected, case.output[0]))
            out, stream = DeviceBuffer(size), Stream(device)
            pointers = [buffer.pointer for buffer in buffers]
            graph = Graph.capture(
                stream.handle,
                lambda: self._driver.enqueue(handle, pointers, out.pointer, stream.handle),
            )
            graph.launch(stream.handle)
            stream.synchronize()
            values = decoded(fake.array(out.pointer, (size,), np.uint8).tobytes(), case.output[0])
            self._driver.release(handle)
        worst, largest = np.abs(values - case.expected).max(), np.abs(case.expected).max()
        limit = {"f32": 1e-5, "f16": 2.0**-10, "bf16": 2.0**-7}[case.output[0]] * max(1.0, largest)
        assert largest > 0, "the reference is all zeros"
        assert worst <= limit, f"worst error {worst:.3g}, largest value {largest:.3g}"

    def _context(self, folder: Path) -> None:
        from imp_trt.cuda.driver import Device, DeviceBuffer, Stream, call
        from imp_trt.plugins.registration import prepare_kernels

        case = read_case(folder)
        changed = []

        def after(call_name: str) -> None:
            if int(call("cuCtxGetCurrent")) != context:
                changed.append(call_name)
            call("cuCtxSetCurrent", context)

        with fake_cuda().installed() as fake, _nothing_compiled():
            Device.open()
            context = fake.create_context()
            call("cuCtxSetCurrent", context)
            buffers = [DeviceBuffer(len(data)) for data in case.data]
            out, stream = DeviceBuffer(len(encoded(case.expected, case.output[0]))), Stream(Device.current())
            prepare_kernels([case.operator])
            after("prepare_kernels")
            handle = self._driver.attach(folder)
            after("attach_to_context")
            self._driver.reshape(handle)
            after("on_shape_change")
            self._driver.enqueue(handle, [b.pointer for b in buffers], out.pointer, stream.handle)
            after("enqueue")
            self._driver.release(handle)
        assert not changed, "another context is current after " + ", ".join(changed)


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """FakeCuda takes anything for a kernel."""
    from imp_trt.cuda import kernels

    image, kernels._image = kernels._image, lambda op, device: b"image"
    try:
        yield
    finally:
        kernels._image = image


def main(arguments: list[str]) -> None:
    version, numpy_version, results, library, *folders = arguments
    Cell(Path(results), Path(library), [Path(folder) for folder in folders]).run(version, numpy_version)


if __name__ == "__main__":
    main(sys.argv[1:])
    # Without tearing down: the order in which Python destroys TensorRT's objects is not what is tested.
    os._exit(0)
