# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU: optional, for CPUs on which it is faster than ONNX Runtime."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import EXPORT_AGAIN, Manifest, TensorSpec
from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends.canvas import CanvasShape, read_canvas_part
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.backends.openvino_import import import_openvino
from imp_trt.cuda.cpus import usable_cpus
from imp_trt.data.native_calls import native_call, raised_by
from imp_trt.errors import ArtifactError, DependencyMissing, ImpTrtError, InvalidInput

Precision = Literal["float32", "bfloat16"]

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
"""Types that the network's float layers can be computed in."""

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class _ElementType(Protocol):
    """openvino.Type."""

    def to_dtype(self) -> object: ...


class _Port(Protocol):
    """openvino.ConstOutput."""

    def get_names(self) -> set[str]: ...
    def get_shape(self) -> Sequence[int]: ...
    def get_element_type(self) -> _ElementType: ...


class _Tensor(Protocol):
    data: NDArray[np.generic]


class _Request(Protocol):
    """openvino.InferRequest."""

    def infer(self, inputs: Mapping[str, NDArray[Any]], share_inputs: bool) -> object: ...
    def get_tensor(self, port: _Port) -> _Tensor: ...


class _Compiled(Protocol):
    """openvino.CompiledModel."""

    inputs: Sequence[_Port]
    outputs: Sequence[_Port]

    def create_infer_request(self) -> _Request: ...


class OpenVinoBackend:
    """An ONNX artifact, compiled by OpenVINO for the CPU. See :class:`imp_trt.backends.Backend`.

    The ONNX local functions of the artifact are inlined when it is loaded. A forked process can run it, but
    must end with os._exit, as those of multiprocessing do: at its regular end OpenVINO waits for threads that
    only its parent has.

    Args:
        path: the .onnx file; its manifest is next to it.
        threads: threads of one network run; None takes one per CPU that the process may use.
        device: None or "cpu".
        precision: of the float layers; None takes bfloat16 on CPUs that multiply it in hardware (AMX or
            AVX-512 BF16), else float32. With bfloat16 class maps differ from those of float32 in a few
            pixels of a thousand.

    Raises:
        ArtifactError: the file is missing or damaged, does not match its manifest, or has a graph that
            OpenVINO does not compile.
        DependencyMissing: openvino or onnx is not installed.
        InvalidInput: another device or precision.
    """

    manifest: Manifest

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        device: str | None = None,
        precision: Precision | None = None,
    ) -> None:
        if device not in (None, "cpu"):
            raise InvalidInput("device of the OpenVINO backend", expected="cpu", got=device)
        if precision is not None and precision not in PRECISIONS:
            raise InvalidInput("precision", expected=f"one of {', '.join(PRECISIONS)}", got=precision)
        # A bad file is reported as such even if the runtime is missing.
        artifact = read_artifact(path)
        self.manifest = artifact.manifest
        self.precision: Precision = precision or ("bfloat16" if has_bfloat16() else "float32")
        compiled = _compiled(artifact.payload, os.fspath(path), threads or usable_cpus(), self.precision)
        inputs = _ports("inputs", compiled.inputs, (self.manifest.input.spec,), path)
        self._outputs = _ports("outputs", compiled.outputs, self.manifest.outputs, path)
        self._input = next(iter(inputs))
        self._request: _Request | None = compiled.create_infer_request()
        self._path, self._threads = os.path.abspath(path), threads or usable_cpus()
        self._canvas: tuple[_Request, _Port] | None = None

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        request = self._request
        if request is None:
            raise InvalidInput("backend is closed", fix="open the artifact again")
        try:
            with native_call():
                request.infer({self._input: frames}, share_inputs=True)
        except Exception as error:
            if not raised_by("openvino", error):
                raise
            raise ImpTrtError("the network failed in OpenVINO", got=_line(error)) from error
        # Copies: the next run writes into the same memory.
        return {name: request.get_tensor(port).data.copy() for name, port in self._outputs.items()}

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        if self._request is None:
            raise InvalidInput("backend is closed", fix="open the artifact again")
        part = self.manifest.canvas_part
        if self._canvas is not None and part is not None:
            return part.shape
        artifact, part, payload = read_canvas_part(self._path, self.manifest)
        compiled = _compiled(payload, str(artifact.path), self._threads, self.precision)
        _ports("inputs", compiled.inputs, (self.manifest.input.spec, part.spec), self._path)
        outputs = _ports("outputs", compiled.outputs, self.manifest.outputs[:1], self._path)
        self._canvas = compiled.create_infer_request(), outputs["semantic"]
        return part.shape

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        if self._canvas is None:
            self.open_canvas()
        assert self._canvas is not None  # noqa: S101  # opened above
        request, port = self._canvas
        try:
            with native_call():
                request.infer({self._input: frames, "canvas": canvas}, share_inputs=True)
        except Exception as error:
            if not raised_by("openvino", error):
                raise
            raise ImpTrtError("the network failed in OpenVINO", got=_line(error)) from error
        return np.array(request.get_tensor(port).data, np.uint8)

    def close(self) -> None:
        """Release the network; idempotent."""
        self._request = self._canvas = None


def has_bfloat16(cpuinfo: str | os.PathLike[str] = "/proc/cpuinfo") -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; False where that is unknown."""
    try:
        text = Path(cpuinfo).read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    return not flags.isdisjoint(("amx_bf16", "avx512_bf16"))


def _compiled(payload: bytes, path: str, threads: int, precision: Precision) -> _Compiled:
    """The compiled network, made in a thread that ends.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signals (sigaltstack), and frees that
    stack when the plugin is released, in whichever thread that is. If another thread does it, the next signal
    kills the process (OpenVINO 2026.4).
    """
    with native_call(), ThreadPoolExecutor(1) as thread:
        return thread.submit(_compile, payload, path, threads, precision).result()


def _compile(payload: bytes, path: str, threads: int, precision: Precision) -> _Compiled:
    check_bounds(payload, path)  # OpenVINO would also read tensors from any other file
    try:
        import onnx
        from onnx import inliner

        openvino: Any = import_openvino()
    except ImportError as error:
        raise DependencyMissing(
            "the OpenVINO backend",
            expected="the packages openvino and onnx",
            got=error,
            fix="pip install 'imp-trt[openvino]'",
        ) from error
    try:
        model = inliner.inline_local_functions(onnx.load_model_from_string(payload))
        core = openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        network = core.read_model(model.SerializeToString())
        return cast(_Compiled, core.compile_model(network, "CPU", options))
    except Exception as error:
        if not raised_by("openvino", error):
            raise
        # Before, it mistransforms the minimum of a concatenation, which the canvas has.
        old = tuple(map(int, re.findall(r"\d+", openvino.__version__)[:2])) < (2026, 1)
        upgrade = "install OpenVINO 2026.1 or newer, " if old else ""
        raise ArtifactError(
            f"artifact {path}: OpenVINO {openvino.__version__} rejects the graph",
            got=_line(error),
            fix=f"{upgrade}leave the backend out, to run it in ONNX Runtime, or {EXPORT_AGAIN}",
        ) from error


def _ports(
    what: str, ports: Sequence[_Port], specs: tuple[TensorSpec, ...], path: object
) -> dict[str, _Port]:
    """Name -> port, in the order of the manifest; ArtifactError unless they are those of the manifest."""
    found: dict[str, _Port] = {}
    actual = []
    for port in ports:
        names, shape = port.get_names(), tuple(port.get_shape())
        dtype = np.dtype(port.get_element_type().to_dtype()).name  # type: ignore[call-overload]
        actual.append(f"{'/'.join(sorted(names))}: {dtype}{list(shape)}")
        for spec in specs:
            if spec.name in names and spec.dtype == dtype and tuple(spec.shape) == shape:
                found[spec.name] = port
    if len(found) != len(specs) or len(ports) != len(specs):
        raise ArtifactError(
            f"artifact {path}: {what} of the graph differ from the manifest",
            expected=", ".join(f"{s.name}: {s.dtype}{list(s.shape)}" for s in specs),
            got=", ".join(actual),
            fix=EXPORT_AGAIN,
        )
    return {spec.name: found[spec.name] for spec in specs}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
