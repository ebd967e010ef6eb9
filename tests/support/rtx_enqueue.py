# SPDX-License-Identifier: Apache-2.0
"""What tests/plugins/test_plugin_enqueue.py does in the child process of tests.support.rtx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imp_trt.cuda import kernels as cuda_kernels
from imp_trt.cuda.driver import Device, DeviceBuffer, Graph, Stream, call
from tests.support.fake_cuda import FakeCuda
from tests.support.fake_kernels import kernels as fake_kernels
from tests.support.plugin_cases import decoded, encoded, read_case
from tests.support.rtx import trt
from tests.support.rtx_plugins import create, register, tensor_desc


def enqueue(calls: list[tuple[str, str | None]]) -> list[dict[str, Any]]:
    """One result for each (case folder, what is changed)."""
    register([None])
    cuda_kernels._image = lambda op, device: b"image"  # FakeCuda takes anything for a kernel
    return [_enqueue(*call) for call in calls]


def _enqueue(folder: str, changed: str | None) -> dict[str, Any]:
    """A case through the runtime interface of the Python plugin, on FakeCuda: attached, then in a capture.

    Args:
        folder: as tests.support.plugin_cases writes it.
        changed: "boxes": one image too many; "driver": a launch fails; "memory": nothing is prepared;
            "context": the caller's context is not the primary one.
    """
    case = read_case(Path(folder))
    with FakeCuda(kernels=fake_kernels()).installed() as fake:
        Device.open()
        if changed == "context":
            call("cuCtxSetCurrent", fake.create_context())
        context = call("cuCtxGetCurrent")
        plugin = create(case.operator, list(case.fields.items()))
        attached = plugin if changed == "memory" else plugin.attach_to_context(None)
        descs = [tensor_desc(element, shape) for element, shape in (*case.inputs, case.output)]
        if changed != "memory":
            attached.on_shape_change(descs[:-1], descs[-1:])
        if changed == "boxes":
            descs[0].dims = trt.Dims([9, *case.inputs[0][1][1:]])
        buffers = [DeviceBuffer(len(data)) for data in case.data]
        for buffer, data in zip(buffers, case.data, strict=True):
            fake.array(buffer.pointer, (len(data),), np.uint8)[:] = np.frombuffer(data, np.uint8)
        size = len(encoded(case.expected, case.output[0]))
        out, stream = DeviceBuffer(size), Stream(Device.current())
        if changed == "driver":
            fake.fail("cuLaunchKernel", "CUDA_ERROR_LAUNCH_FAILED")
        pointers = [buffer.pointer for buffer in buffers]
        called = len(fake.calls)
        try:
            if changed == "boxes":
                attached.on_shape_change(descs[:-1], descs[-1:])
            graph = Graph.capture(
                stream.handle,
                lambda: attached.enqueue(descs[:-1], descs[-1:], pointers, [out.pointer], 0, stream.handle),
            )
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        calls = fake.calls[called:]
        graph.launch(stream.handle)
        stream.synchronize()
        values = decoded(fake.array(out.pointer, (size,), np.uint8).tobytes(), case.output[0])
        return {
            "worst": float(np.abs(values - case.expected).max()),
            "largest": float(np.abs(case.expected).max()),
            "calls": sorted(set(calls)),
            "same_context": call("cuCtxGetCurrent") == context,
        }
