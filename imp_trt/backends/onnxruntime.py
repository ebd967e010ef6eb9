"""ONNX Runtime on the CPU: the backend that runs anywhere."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imp_trt.artifacts.artifact import read_artifact
from imp_trt.artifacts.manifest import EXPORT_AGAIN, Manifest, TensorSpec
from imp_trt.errors import ArtifactError, DependencyMissing, ImpTrtError, InvalidInput

_ONNX_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "int32": "tensor(int32)"}


class OnnxRuntimeBackend:
    """An ONNX artifact in an ONNX Runtime session. See :class:`imp_trt.backends.Backend`.

    The same file, frames and thread count give bit-identical results.

    Args:
        path: the .onnx file; its manifest lies beside it.
        threads: threads of one network run; None takes one per physical core.
        device: None or "cpu".

    Raises:
        ArtifactError: the file is missing or damaged, does not match its manifest, or holds a graph
            with other inputs or outputs than the manifest says.
        DependencyMissing: onnxruntime is not installed.
        InvalidInput: another device.
    """

    manifest: Manifest

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int | None = None, device: str | None = None
    ) -> None:
        if device not in (None, "cpu"):
            raise InvalidInput("device of the ONNX Runtime backend", expected="cpu", got=device)
        # Bad files are reported as such even where the runtime is absent.
        artifact = read_artifact(path)
        self.manifest = artifact.manifest
        if self.manifest.precision == "bf16":
            raise ArtifactError(
                f"artifact {path}",
                expected="a precision that ONNX Runtime's CPU runs",
                got="bf16, a file for TensorRT's parser",
                fix="give it to trtexec, or imp-export --engine fp32 --target onnxruntime",
            )
        self._session: Any = _session(artifact.payload, str(artifact.path), threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        _check("inputs", inputs, (self.manifest.input.spec,), path)
        _check("outputs", outputs, self.manifest.outputs, path)
        self._names = [spec.name for spec in self.manifest.outputs]

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
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


def _session(payload: bytes, path: str, threads: int | None) -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise DependencyMissing(
            "ONNX Runtime is not installed", got=error, fix="pip install 'imp-trt[onnx]'"
        ) from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # The hash covers this one file. Without the entry, tensors stored outside of it would be read from
    # the current folder; below a path that is no folder there are none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    # Quantized files are run as they are written. ONNX Runtime would quantize their biases too and move
    # QuantizeLinear in front of operators that have no float8 form.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Without it the pool's threads go on spinning after a run, on the cores that resize the next frame.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # failures come as exceptions; the log would say them twice
    try:
        return ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ArtifactError(
            f"artifact {path}: ONNX Runtime {ort.__version__} refuses the graph",
            got=_line(error),
            fix=f"{EXPORT_AGAIN}, or pip install --upgrade onnxruntime",
        ) from error


def _check(what: str, nodes: list[Any], specs: tuple[TensorSpec, ...], path: object) -> None:
    """The manifest says what the graph takes and gives; believe neither before they agree."""
    found = [f"{n.name}: {n.type}{list(n.shape)}" for n in nodes]
    wanted = [f"{s.name}: {_ONNX_TYPES.get(s.dtype, s.dtype)}{list(s.shape)}" for s in specs]
    if sorted(found) != sorted(wanted):
        raise ArtifactError(
            f"artifact {path}: {what} of the graph differ from the manifest",
            expected=", ".join(wanted),
            got=", ".join(found),
            fix=EXPORT_AGAIN,
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
