# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the backend without hardware requirements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import read_artifact
from imp_trt.artifacts.manifest import EXPORT_AGAIN, Manifest, TensorSpec
from imp_trt.backends.decoding import HostOutputs
from imp_trt.backends.onnx_bounds import check_bounds
from imp_trt.errors import ArtifactError, DependencyMissing, ImpTrtError, InvalidInput


class _Node(Protocol):
    name: str
    type: str
    shape: Sequence[int | str | None]


class _Session(Protocol):
    """onnxruntime.InferenceSession, which has no type information."""

    def get_inputs(self) -> Sequence[_Node]: ...
    def get_outputs(self) -> Sequence[_Node]: ...
    def run(
        self, output_names: Sequence[str], input_feed: HostOutputs
    ) -> Any: ...  # arrays, for these graphs


_ONNX_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "int32": "tensor(int32)"}


class OnnxRuntimeBackend:
    """An ONNX artifact in an ONNX Runtime session. See :class:`imp_trt.backends.Backend`.

    The same file, frames and thread count give bit-identical results.

    Args:
        path: the .onnx file; its manifest is next to it.
        threads: threads of one network run; None takes one per physical core.
        device: None or "cpu".

    Raises:
        ArtifactError: the file is missing or damaged, does not match its manifest, or has a graph
            whose inputs or outputs differ from the manifest's.
        DependencyMissing: onnxruntime is not installed.
        InvalidInput: another device.
    """

    manifest: Manifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        if device not in (None, "cpu"):
            raise InvalidInput("device of the ONNX Runtime backend", expected="cpu", got=device)
        # A bad file is reported as such even if the runtime is missing.
        artifact = read_artifact(path)
        self.manifest = artifact.manifest
        if self.manifest.precision == "bf16":
            raise ArtifactError(
                f"artifact {path}",
                expected="a precision that ONNX Runtime supports on CPUs",
                got="bf16, a file for TensorRT's parser",
                fix="pass it to trtexec, or imp-export --engine fp32 --target onnxruntime",
            )
        check_bounds(artifact.payload, str(artifact.path))
        session = _session(artifact.payload, str(artifact.path), threads)
        _check("inputs", session.get_inputs(), (self.manifest.input.spec,), path)
        _check("outputs", session.get_outputs(), self.manifest.outputs, path)
        self._session: _Session | None = session
        self._names = [spec.name for spec in self.manifest.outputs]

    def infer(self, frames: NDArray[np.uint8]) -> HostOutputs:
        """See :meth:`imp_trt.backends.Backend.infer`."""
        if self._session is None:
            raise InvalidInput("backend is closed", fix="open the artifact again")
        try:
            arrays = self._session.run(self._names, {self.manifest.input.spec.name: frames})
        except Exception as error:
            raise ImpTrtError("the network failed in ONNX Runtime", got=_line(error)) from error
        return dict(zip(self._names, arrays, strict=True))

    def close(self) -> None:
        """Release the session; idempotent."""
        self._session = None


def _session(payload: bytes, path: str, threads: int | None) -> _Session:
    try:
        import onnxruntime as ort
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
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # The hash covers this one file. By default, tensors stored outside of it would be read from the current
    # folder; with a path that is not a folder, loading them fails.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    # Run quantized files as they are. ONNX Runtime would also quantize their biases, and move QuantizeLinear
    # in front of operators without a float8 implementation.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # By default the pool's threads keep spinning after a run, on the cores that resize the next frame.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # fatal: failures are raised, and would be logged in addition
    try:
        session: _Session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        return session
    except Exception as error:
        raise ArtifactError(
            f"artifact {path}: ONNX Runtime {ort.__version__} rejects the graph",
            got=_line(error),
            fix=f"{EXPORT_AGAIN}, or pip install --upgrade onnxruntime",
        ) from error


def _check(what: str, nodes: Sequence[_Node], specs: tuple[TensorSpec, ...], path: object) -> None:
    """ArtifactError unless the graph's inputs or outputs are those of the manifest."""
    actual = [f"{n.name}: {n.type}{list(n.shape)}" for n in nodes]
    expected = [f"{s.name}: {_ONNX_TYPES.get(s.dtype, s.dtype)}{list(s.shape)}" for s in specs]
    if sorted(actual) != sorted(expected):
        raise ArtifactError(
            f"artifact {path}: {what} of the graph differ from the manifest",
            expected=", ".join(expected),
            got=", ".join(actual),
            fix=EXPORT_AGAIN,
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
