"""From a plan to an engine: TensorRT's messages, deserialization, and what the engine says of itself."""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from typing import Any

from imp_trt.artifacts.artifact import Artifact
from imp_trt.artifacts.manifest import EXPORT_AGAIN, TensorSpec
from imp_trt.errors import ArtifactError, DeviceError, EngineIncompatible

_log = logging.getLogger(__name__)

_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.WARNING,
    "INFO": logging.DEBUG,  # TensorRT is talkative
    "VERBOSE": logging.DEBUG,
}
_DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}
_KEPT = 3  # messages quoted in an error


class Messages:
    """TensorRT's log, sent to logging; the last errors are kept, because the API itself only says no.

    Attributes:
        logger: the ILogger to hand to TensorRT.
    """

    def __init__(self, trt: Any) -> None:
        self._errors: deque[str] = deque(maxlen=_KEPT)
        self.logger = _logger(trt, self._errors)

    def taken(self) -> str:
        """The last errors in one line; they are not given twice."""
        text = " | ".join(self._errors)
        self._errors.clear()
        return text or "no message"


@cache
def messages_of(trt: Any) -> Messages:
    """One log per library and process: TensorRT keeps the first that it is given."""
    return Messages(trt)


def _logger(trt: Any, errors: deque[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = _LEVELS.get(severity.name, logging.DEBUG)
            text = " ".join(msg.split())[:500]
            if level >= logging.ERROR:
                errors.append(text)
            _log.log(level, "%s: %s", trt.__name__, text)

    return Logger()


def deserialize(trt: Any, messages: Messages, artifact: Artifact, kept: list[Any]) -> Any:
    """The engine of an artifact that preflight has let pass.

    Args:
        kept: runtime and engine are appended, in the order in which they must live.

    Raises:
        DeviceError: TensorRT does not start.
        EngineIncompatible: TensorRT refuses the engine.
    """
    try:
        runtime = trt.Runtime(messages.logger)
    except (RuntimeError, TypeError) as error:  # what pybind makes of a null pointer
        raise DeviceError(
            f"{trt.__name__} does not start",
            got=f"{error} ({messages.taken()})",
            fix="imp-doctor checks driver and GPU",
        ) from error
    kept.append(runtime)
    # A plan that brings code of its own is not run.
    runtime.engine_host_code_allowed = False
    engine = runtime.deserialize_cuda_engine(artifact.payload)
    if engine is None:
        raise EngineIncompatible(
            f"{trt.__name__} {trt.__version__} refuses the engine {artifact.path}",
            got=messages.taken(),
            fix=f"{EXPORT_AGAIN} on this machine; imp-inspect tells what it was built for",
        )
    kept.append(engine)
    return engine


def check_tensors(engine: Any, artifact: Artifact) -> None:
    """The engine's inputs and outputs are those of the manifest, on the GPU, in plain order.

    Raises:
        ArtifactError: they are not.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    found = sorted(_described(engine, name) for name in names)
    manifest = artifact.manifest
    wanted = sorted([_line("INPUT", manifest.input.spec), *(_line("OUTPUT", s) for s in manifest.outputs)])
    if found != wanted:
        raise ArtifactError(
            f"engine {artifact.path}: its tensors differ from the manifest",
            expected=", ".join(wanted),
            got=", ".join(found),
            fix=EXPORT_AGAIN,
        )


def _line(mode: str, spec: TensorSpec, place: str = "") -> str:
    return f"{mode.lower()} {spec}{place}"


def _described(engine: Any, name: str) -> str:
    dtype = str(engine.get_tensor_dtype(name).name)
    spec = TensorSpec(name, _DTYPES.get(dtype, dtype), tuple(engine.get_tensor_shape(name)))
    location, order = engine.get_tensor_location(name).name, engine.get_tensor_format(name).name
    odd = [word for word in (location, order) if word not in ("DEVICE", "LINEAR")]
    return _line(engine.get_tensor_mode(name).name, spec, f" ({', '.join(odd)})" if odd else "")
