# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the backend without hardware requirements."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.manifest import EXPORT_AGAIN, Manifest, TensorSpec
from imp_trt.artifacts.reading import read_artifact
from imp_trt.backends.canvas import CanvasShape, read_canvas_part
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.backends.onnxruntime_import import import_onnxruntime
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.cuda.cpus import usable_cores
from imp_trt.data.native_calls import call_after_fork, native_call, never_release, raised_by
from imp_trt.errors import ArtifactError, DependencyMissing, ImpTrtError, InvalidInput


class _Node(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


class OrtSession(Protocol):
    """onnxruntime.InferenceSession, which has no type information."""

    def get_inputs(self) -> Sequence[_Node]: ...
    def get_outputs(self) -> Sequence[_Node]: ...
    def get_providers(self) -> Sequence[str]: ...
    def run(
        self, output_names: Sequence[str], input_feed: HostOutputs
    ) -> Any: ...  # arrays, for these graphs


SESSION_CONFIG = {
    # By default, bytes that start like ONNX Runtime's own format are read as that, which no check has seen.
    "session.load_model_format": "ONNX",
    # The hash covers this one file. By default, tensors stored outside of it would be read from the current
    # folder; with a path that is not a folder, loading them fails.
    "session.model_external_initializers_file_folder_path": os.devnull,
    # Run quantized files as they are. ONNX Runtime would also quantize their biases, and move QuantizeLinear
    # in front of operators without a float8 implementation.
    "session.disable_quant_qdq": "1",
    # By default the pool's threads keep spinning after a run, on the cores that resize the next frame.
    "session.force_spinning_stop": "1",
    # Threads that have no work wait for it in a loop, by default for long: on cores that another program uses
    # too this takes the time of the threads that have some. tests/bench/bench_contention.py measures it.
    "session.intra_op.spin_duration_us": "20",
    "session.dynamic_block_base": "4",  # smaller parts of an operator, for the threads that come to take them
}
"""Session options of ONNX Runtime; versions that do not know one ignore it."""

_SPINS_FOR_A_TIME = (1, 26)
"""The first version with session.intra_op.spin_duration_us. Before it, threads do not spin at all."""

_KEEPS_TO_THE_FILE = (1, 24)
"""Earlier versions read tensors from other files although the session's options exclude them."""

_ROUNDS_HALF_RIGHT = (1, 30)
"""Earlier versions are off by one for a third of the values that QuantizeLinear makes of float16.

The instance F1 of the bundled int8 network against PyTorch is 0.87 instead of 0.97."""

_log = logging.getLogger(__name__)

_ONNX_TYPES = {"float32": "tensor(float)"}  # other names are NumPy's


class OnnxRuntimeBackend:
    """An ONNX artifact in an ONNX Runtime session. See :class:`imp_trt.backends.Backend`.

    The same file, frames and thread count give bit-identical results. A forked process opens the file again
    when it first runs the network; it must not have been replaced in the meantime.

    Args:
        path: the .onnx file; its manifest is next to it.
        threads: threads of one network run; None takes one per physical core that this process may use.
        device: None or "cpu"; "cuda" or "cuda:<index>" for ONNX Runtime's CUDA provider, "tensorrt-rtx" or
            "tensorrt-rtx:<index>" for its TensorRT-RTX provider. Frames and results are in host memory.

    Raises:
        ArtifactError: the file is missing or damaged, does not match its manifest, or has a graph
            whose inputs or outputs differ from the manifest's.
        DependencyMissing: onnxruntime is not installed, or lacks the device's provider.
        DeviceError: the GPU cannot be used.
        InvalidInput: another device.
    """

    manifest: Manifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        self._device = OrtDevice.parse(device)
        self._threads = threads or usable_cores()
        # A bad file is reported as such even if the runtime is missing.
        artifact = read_artifact(path)
        self._path = os.path.abspath(path)  # also valid after a change of the current folder
        self.manifest = artifact.manifest
        if self.manifest.precision == "bf16":
            raise ArtifactError(
                f"artifact {path}",
                expected="a precision that ONNX Runtime supports on CPUs",
                got="bf16, a file for TensorRT's parser",
                fix="pass it to trtexec, or imp-export --engine fp32 --target onnxruntime",
            )
        check_bounds(artifact.payload, str(artifact.path))
        self._session: OrtSession | None = open_session(
            artifact.payload, str(artifact.path), self._threads, self._device
        )
        check_nodes("inputs", self._session.get_inputs(), (self.manifest.input.spec,), path)
        check_nodes("outputs", self._session.get_outputs(), self.manifest.outputs, path)
        if self.manifest.precision == "int8" and _version() < _ROUNDS_HALF_RIGHT:
            _log.warning(
                "%s: ONNX Runtime before %d.%d rounds wrongly in int8 networks, whose results are then less "
                "accurate. Fix: pip install --upgrade onnxruntime (with Python 3.11 or later)",
                os.fspath(path),
                *_ROUNDS_HALF_RIGHT,
            )
        self._names = [spec.name for spec in self.manifest.outputs]
        self._canvas: OrtSession | None = None
        self._forked = False
        call_after_fork(self)

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        if self._forked:
            self._session, self._forked = self._open_again(), False
        session = self._session
        if session is None:
            raise InvalidInput("backend is closed", fix="open the artifact again")
        arrays = _run(session, self._names, {self.manifest.input.spec.name: frames})
        return dict(zip(self._names, arrays, strict=True))

    def open_canvas(self) -> CanvasShape:
        """See :meth:`imp_trt.backends.CanvasBackend.open_canvas`."""
        if self._session is None and not self._forked:
            raise InvalidInput("backend is closed", fix="open the artifact again")
        part = self.manifest.canvas_part
        if self._canvas is not None and part is not None:
            return part.shape
        if self._forked:
            self._check_forked()
        artifact, part, payload = read_canvas_part(self._path, self.manifest)
        check_bounds(payload, str(artifact.path))
        session = open_session(payload, str(artifact.path), self._threads, self._device)
        check_nodes("inputs", session.get_inputs(), (self.manifest.input.spec, part.spec), self._path)
        check_nodes("outputs", session.get_outputs(), self.manifest.outputs[:1], self._path)
        self._canvas = session
        return part.shape

    def infer_canvas(self, frames: NDArray[np.uint8], canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
        """See :meth:`imp_trt.backends.CanvasBackend.infer_canvas`."""
        if self._canvas is None:
            self.open_canvas()
        session = self._canvas
        assert session is not None  # noqa: S101  # opened above
        (semantic,) = _run(
            session, self._names[:1], {self.manifest.input.spec.name: frames, "canvas": canvas}
        )
        return np.asarray(semantic, np.uint8)

    def close(self) -> None:
        """Release the sessions; idempotent."""
        self._session, self._canvas, self._forked = None, None, False

    def after_fork(self) -> None:
        """The session's threads do not exist in a forked process: never use or end this one there."""
        if self._canvas is not None:
            never_release(self._canvas)
            self._canvas = None
        if self._session is not None:
            never_release(self._session)
            self._session, self._forked = None, True

    def _check_forked(self) -> None:
        if self._device.on_gpu:
            raise InvalidInput(
                "a network on a GPU in a forked process",
                expected="the process that opened it",
                fix="open a Segmenter in the new process, and start it by spawn",
            )

    def _open_again(self) -> OrtSession:
        self._check_forked()
        artifact = read_artifact(self._path)
        if artifact.manifest.sha256 != self.manifest.sha256:
            raise ArtifactError(
                f"artifact {self._path}, opened again in a forked process",
                expected=f"the file that was opened before, sha256 {self.manifest.sha256}",
                got=artifact.manifest.sha256,
                fix="open a Segmenter in the new process",
            )
        return open_session(artifact.payload, self._path, self._threads, self._device)


def open_session(
    payload: bytes, path: str, threads: int, device: OrtDevice, optimize: bool = True
) -> OrtSession:
    """A session of an ONNX file that :func:`imp_trt.backends.onnx_bounds.check_bounds` accepts.

    Raises:
        ArtifactError: ONNX Runtime rejects it.
        DependencyMissing: onnxruntime is not installed, or lacks the device's provider.
        DeviceError: the GPU cannot be used.
    """
    try:
        ort = import_onnxruntime()
    except ModuleNotFoundError as error:
        raise DependencyMissing(
            "ONNX Runtime is not installed", got=error, fix="pip install 'imp-trt[onnx]'"
        ) from error
    except ImportError as error:  # installed, but its libraries cannot be mapped
        raise DependencyMissing(
            "ONNX Runtime cannot be loaded",
            got=error,
            fix="raise the limit of the address space (ulimit -v), free memory, or install it again",
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    for key, value in SESSION_CONFIG.items():
        options.add_session_config_entry(key, value)
    version = _version()
    if version < _SPINS_FOR_A_TIME:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The key under which a tensor names its file; whatever else has this name is not worth reading the graph.
    if version < _KEEPS_TO_THE_FILE and b"location" in payload:
        raise ArtifactError(
            f"artifact {path}: ONNX Runtime {ort.__version__} rejects the graph",
            expected="no tensors in other files",
            got="the word 'location', with which a tensor refers to one",
            fix=f"{EXPORT_AGAIN}, or pip install --upgrade onnxruntime",
        )
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # fatal: failures are raised, and would be logged in addition
    providers = device.providers(ort.get_available_providers())
    try:
        with native_call():
            session: OrtSession = ort.InferenceSession(payload, options, providers=providers)
    except Exception as error:
        if not raised_by("onnxruntime", error):
            raise
        raise ArtifactError(
            f"artifact {path}: ONNX Runtime {ort.__version__} rejects the graph",
            got=one_line(error),
            fix=f"{EXPORT_AGAIN}, or pip install --upgrade onnxruntime",
        ) from error
    device.check(session)
    return session


def _run(session: OrtSession, names: Sequence[str], inputs: HostOutputs) -> Sequence[NDArray[Any]]:
    try:
        with native_call():
            arrays: Sequence[NDArray[Any]] = session.run(names, inputs)
    except Exception as error:
        if not raised_by("onnxruntime", error):
            raise
        raise ImpTrtError("the network failed in ONNX Runtime", got=one_line(error)) from error
    return arrays


def _version() -> tuple[int, ...]:
    """Of ONNX Runtime, such as (1, 30)."""
    return tuple(int(part) for part in import_onnxruntime().__version__.split(".")[:2])


def check_nodes(what: str, nodes: Sequence[_Node], specs: Sequence[TensorSpec], path: object) -> None:
    """ArtifactError unless the graph's inputs or outputs are those of the manifest."""
    actual = [f"{n.name}: {n.type}{list(n.shape)}" for n in nodes]
    expected = [f"{s.name}: {_ONNX_TYPES.get(s.dtype, f'tensor({s.dtype})')}{list(s.shape)}" for s in specs]
    if sorted(actual) != sorted(expected):
        raise ArtifactError(
            f"artifact {path}: {what} of the graph differ from the manifest",
            expected=", ".join(expected),
            got=", ".join(actual),
            fix=EXPORT_AGAIN,
        )


def one_line(error: Exception) -> str:
    """The message of an exception, short and without line breaks."""
    return " ".join(str(error).split())[:500]
