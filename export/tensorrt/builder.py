# SPDX-License-Identifier: Apache-2.0
"""Builds an engine from ONNX in a child process, which isolates crashes and the builder's memory."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from imp_trt import errors
from imp_trt.artifacts.engine_info import EngineBackendName
from imp_trt.cuda.platform import LIBRARY_VARIABLE, installed_version
from imp_trt.data.child_modules import importing_this_package
from imp_trt.data.files import read_regular, temporary_folder, unwritable, write_atomically
from imp_trt.errors import BuildError, DependencyMissing, ImpTrtError, OutputError
from imp_trt.export.progress import Progress, silent
from imp_trt.export.tensorrt.build_job import MODULES, BuildJob

WORKER = "imp_trt.export.tensorrt.build_worker"

_PATHS = (LIBRARY_VARIABLE, "IMP_TRT_CACHE", "LD_LIBRARY_PATH")
"""Environment variables with paths, which may be relative."""

_HEARTBEAT_S = 1.0
_TAIL_LINES = 5
_MAX_CACHE = 1 << 30
_log = logging.getLogger(__name__)

_Event = dict[str, Any]
"""A line of JSON from the worker; imp_trt.export.tensorrt.build_worker documents the keys."""


@dataclass(frozen=True)
class BuildResult:
    """A built engine.

    Attributes:
        plan: the engine's bytes.
        version: of the builder, e.g. "10.3.0.26".
        network_types: type -> number of convolutions of the parsed network.
        engine_types: type -> number of layers from the engine inspector; None if the engine cannot be loaded
            on this machine (TensorRT-RTX builds without a GPU).
        plugins: "c++" or "python" if the engine has plugin layers, else None.
    """

    plan: bytes
    version: str
    network_types: dict[str, int]
    engine_types: dict[str, int] | None
    plugins: str | None


def build_engine(model: bytes, job: BuildJob, progress: Progress | None = None) -> BuildResult:
    """Build an engine in a child process.

    When this returns or raises, also for KeyboardInterrupt, the child has exited and its files are deleted.

    Args:
        model: content of the ONNX file.
        job: what to build; onnx and output are set here.
        progress: called about once a second.

    Raises:
        BuildError: TensorRT rejects the graph, cannot build it, crashes or runs out of memory.
        PrecisionError: the graph or the engine has another precision.
        DependencyMissing: the builder or its GPU is missing.
        OutputError: temporary files cannot be written.
    """
    require_builder(job.backend)
    with temporary_folder("imp_trt_build_") as folder:
        job, cache = _prepare(model, job, folder)
        info = _run(job, folder, progress or silent)
        plan = (folder / "model.engine").read_bytes()
        if cache is not None and job.timing_cache is not None:
            if not info["timing_cache_used"]:
                text = "timing cache %s is not of this TensorRT and GPU, or damaged: a new one replaces it"
                _log.warning(text, cache)
            _keep_timing_cache(Path(job.timing_cache), cache)
    return BuildResult(plan, info["version"], info["network_types"], info["engine_types"], info["plugins"])


def require_builder(backend: EngineBackendName) -> None:
    """DependencyMissing if the backend's package is not installed; does not import it."""
    if installed_version(MODULES[backend]) is None:
        raise DependencyMissing(
            f"{backend} is not installed",
            expected=f"the Python package {MODULES[backend]}",
            got="no such package",
            fix=f"pip install 'imp-trt[{backend}]', or imp-export --target onnxruntime",
        )


def rtx_environment(folder: Path) -> dict[str, str]:
    """Environment of a process that uses TensorRT-RTX's parser with plugins.

    The parser opens ``libtensorrt_rtx.so``, a name that the Python package does not have, and crashes if it
    is missing. LD_LIBRARY_PATH must be set before the process starts.

    Args:
        folder: existing folder for a link of that name; must exist as long as the process.
    """
    environment = dict(os.environ)
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    libraries = (
        [] if spec is None or spec.origin is None else Path(spec.origin).parent.glob("libtensorrt_rtx.so.*")
    )
    for library in sorted(libraries)[:1]:
        link = folder / "libtensorrt_rtx.so"
        if not link.is_symlink():
            link.symlink_to(library)
        paths = [str(folder.absolute()), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _prepare(model: bytes, job: BuildJob, folder: Path) -> tuple[BuildJob, Path | None]:
    """Write the child's input files.

    Returns:
        The job for the child, and the user's timing cache. The child uses a copy of the cache, because it may
        be killed while it writes.
    """
    cache = None if job.timing_cache is None else Path(job.timing_cache)
    own = None if cache is None else str(folder / "timing.cache")
    job = replace(job, onnx=str(folder / "model.onnx"), output=str(folder / "model.engine"), timing_cache=own)
    try:
        (folder / "model.onnx").write_bytes(model)
        (folder / "job.json").write_text(job.to_json())
        if cache is not None and cache.exists():
            (folder / "timing.cache").write_bytes(_stored(cache))
    except OSError as error:
        raise unwritable(folder, error) from error
    return job, cache


def _stored(cache: Path) -> bytes:
    """Content of the user's timing cache; OutputError if it is a pipe or device, which never ends."""
    try:
        return read_regular(cache, _MAX_CACHE)
    except OSError as error:
        raise OutputError(
            f"timing cache {cache}",
            expected=f"a regular file of at most {_MAX_CACHE >> 20} MB",
            got=error.strerror,
            fix="choose another file",
        ) from error


def _keep_timing_cache(new: Path, cache: Path) -> None:
    if not new.exists():
        return
    try:
        write_atomically(cache, new.read_bytes())
    except OutputError as error:  # not fatal: the cache only saves time
        _log.warning("%s", error)


def _run(job: BuildJob, folder: Path, progress: Progress) -> _Event:
    """Run the child, forward its progress, and return its last event."""
    environment = rtx_environment(folder) if job.backend == "tensorrt-rtx" else dict(os.environ)
    # The child has another working directory.
    for name in _PATHS:
        if environment.get(name):
            paths = environment[name].split(os.pathsep)
            environment[name] = os.pathsep.join(map(os.path.abspath, paths))
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # Not the caller's working directory: Python would import modules from there first.
            cwd=folder,
            env=importing_this_package(environment),
            # Ctrl-C reaches this process only, which then kills the whole group.
            start_new_session=True,
        )
        try:
            last = _listen(cast("IO[bytes]", child.stdout), progress)
            child.wait()
        finally:
            _end(child)
    text = (folder / "log").read_text(errors="replace")
    for line in text.splitlines():
        _log.debug("%s", line)
    if last.get("event") == "done" and child.returncode == 0:
        return last
    if last.get("event") == "error":
        kind: type[ImpTrtError] = getattr(errors, last["kind"])
        raise kind(last["what"], expected=last.get("expected"), got=last.get("got"), fix=last.get("fix"))
    raise _died(job, child.returncode, text)


def _listen(stream: IO[bytes], progress: Progress) -> _Event:
    """Forward progress until the stream ends; the last other event, or an empty one."""
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    # In a thread, so that progress is reported regularly while the builder is silent for minutes.
    threading.Thread(target=read, daemon=True).start()
    last: _Event = {}
    step: tuple[str, int, int] | None = None
    while True:
        try:
            line = lines.get(timeout=_HEARTBEAT_S)
        except queue.Empty:
            if step is not None:
                progress(*step)
            continue
        if line is None:
            return last
        if not line.startswith(b"{"):  # printed before the worker redirected standard output
            continue
        event: _Event = json.loads(line)
        if event["event"] == "progress":
            step = (event["stage"], event["done"], event["total"])
            progress(*step)
        else:
            last = event


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's process group if it still runs, and wait for it."""
    with suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _died(job: BuildJob, code: int, log: str) -> ImpTrtError:
    """The error for a child that exited without an error event."""
    tail = " | ".join(line.strip() for line in log.splitlines()[-_TAIL_LINES:] if line.strip())
    if code == -signal.SIGKILL:
        return BuildError(
            f"the {job.backend} builder was killed",
            got=f"SIGKILL, sent by the system when memory runs out{'; last output: ' + tail if tail else ''}",
            fix="close other programs, add swap, or limit the builder with --workspace 1",
        )
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return BuildError(
        f"the {job.backend} builder crashed",
        got=f"{name}; last output: {tail or 'none'}",
        fix="use --no-plugin if a plugin was used; else report this with the output above",
    )
