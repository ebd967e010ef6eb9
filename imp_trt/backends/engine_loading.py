# SPDX-License-Identifier: Apache-2.0
"""Deserialization of an engine, TensorRT's log messages, and the check of the engine's tensors."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from imp_trt.artifacts.artifact import Artifact, NetworkArtifact
from imp_trt.artifacts.manifest import EXPORT_AGAIN, TensorSpec
from imp_trt.errors import ArtifactError, DeviceError, EngineIncompatible, printable
from imp_trt.plugins.tensorrt_types import ICudaEngine, Member, TensorRT

_log = logging.getLogger(__name__)

_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,  # TensorRT logs much at this level
    "VERBOSE": logging.DEBUG,
}
_DTYPES = {
    "UINT8": "uint8",
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_MAX_QUOTED = 3  # messages in an error


class MessageLog:
    """Forwards TensorRT's log to logging and keeps the last errors: the API itself reports only failure.

    Attributes:
        logger: the ILogger to pass to TensorRT.
    """

    def __init__(self, trt: TensorRT) -> None:
        self._errors: deque[str] = deque(maxlen=_MAX_QUOTED)
        self.logger = _logger(trt, self._errors)

    def pop_errors(self) -> str:
        """The last errors in one line; clears them."""
        text = " | ".join(self._errors)
        self._errors.clear()
        return text or "no message"


@cache
def message_log(trt: TensorRT) -> MessageLog:
    """One log per library and process: TensorRT keeps the first logger that it gets."""
    return MessageLog(trt)


def _logger(trt: TensorRT, errors: deque[str]) -> object:
    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Member, msg: str) -> None:
            level = _LEVELS.get(severity.name, logging.DEBUG)
            text = printable(" ".join(msg.split())[:500])
            if level >= logging.ERROR:
                errors.append(text)
            _log.log(level, "%s: %s", trt.__name__, text)

    return Logger()


def deserialize(
    trt: TensorRT, log: MessageLog, artifact: Artifact | NetworkArtifact, kept: list[object]
) -> ICudaEngine:
    """The engine of an artifact that passed preflight.

    Args:
        trt: TensorRT's module.
        log: of that module.
        artifact: the engine and its manifest.
        kept: runtime and engine are appended; they must be released in reverse order.

    Raises:
        DeviceError: TensorRT does not start.
        EngineIncompatible: TensorRT rejects the engine.
    """
    try:
        runtime = trt.Runtime(log.logger)
    except (RuntimeError, TypeError) as error:  # raised by pybind11 for a null pointer
        raise DeviceError(
            f"{trt.__name__} does not start",
            got=f"{error} ({log.pop_errors()})",
            fix="imp-doctor checks driver and GPU",
        ) from error
    kept.append(runtime)
    # Code inside of an engine is not run.
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(artifact.payload)
    if engine is None:
        raise EngineIncompatible(
            f"{trt.__name__} {trt.__version__} rejects the engine {artifact.path}",
            got=log.pop_errors(),
            fix=f"{EXPORT_AGAIN} on this machine; imp-inspect shows what it was built for",
        )
    kept.append(engine)
    return engine


def check_tensors(
    engine: ICudaEngine, path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Check that the engine's inputs and outputs are those of the manifest, on the GPU, in linear format.

    Args:
        engine: the engine.
        path: of its file, for messages.
        inputs, outputs: of the manifest.

    Raises:
        ArtifactError: they are not.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    actual = sorted(_describe(engine, name) for name in names)
    expected = sorted([*(_line("INPUT", s) for s in inputs), *(_line("OUTPUT", s) for s in outputs)])
    if actual != expected:
        raise ArtifactError(
            f"engine {path}: its tensors differ from the manifest",
            expected=", ".join(expected),
            got=", ".join(actual),
            fix=EXPORT_AGAIN,
        )


def _line(mode: str, spec: TensorSpec, note: str = "") -> str:
    return f"{mode.lower()} {spec}{note}"


def _describe(engine: ICudaEngine, name: str) -> str:
    dtype = str(engine.get_tensor_dtype(name).name)
    spec = TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(name)))
    location, layout = engine.get_tensor_location(name).name, engine.get_tensor_format(name).name
    unusual = [word for word in (location, layout) if word not in ("DEVICE", "LINEAR")]
    return _line(engine.get_tensor_mode(name).name, spec, f" ({', '.join(unusual)})" if unusual else "")
