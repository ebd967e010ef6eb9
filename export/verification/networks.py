# SPDX-License-Identifier: Apache-2.0
"""Verification of a third-party network: the float32 file, and what the artifact makes of it."""

from __future__ import annotations

import platform as machine
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.artifacts.artifact import manifest_path
from imp_trt.artifacts.manifest import TensorSpec
from imp_trt.artifacts.network_manifest import NetworkManifest
from imp_trt.artifacts.writing import write_artifact
from imp_trt.backends.onnxruntime import one_line, open_session
from imp_trt.backends.onnxruntime_providers import OrtDevice
from imp_trt.backends.opening import open_network
from imp_trt.cuda.cpus import usable_cores, usable_cpus
from imp_trt.cuda.platform import Gpu
from imp_trt.data.files import temporary_folder
from imp_trt.errors import ExportError
from imp_trt.export.plan import ExportPlan
from imp_trt.export.progress import Progress
from imp_trt.export.verification.arrays import (
    TOLERANCES,
    Arrays,
    Inputs,
    compare_arrays,
    enforce_arrays,
    warn_of_untested,
)
from imp_trt.export.verification.gates import ENGINE, ONNXRUNTIME, VerifiedOn

if TYPE_CHECKING:
    from onnx import ModelProto

_DATA_DEPENDENT = frozenset(("Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"))

Calls = Callable[[], Iterator[tuple[Arrays, Arrays]]]
"""Inputs and the outputs of the float32 file."""

_Run = Callable[[Arrays], Arrays]


class Reference:
    """The float32 file in ONNX Runtime, without its optimizations.

    Args:
        path: of the file, for errors.
        model: its graph, with fixed input shapes.
        inputs: to run it on.
    """

    def __init__(self, path: Path, model: ModelProto, inputs: Inputs) -> None:
        self._path, self._model, self._inputs = path, model, inputs
        self._network = _Unoptimized(model.SerializeToString(deterministic=True), str(path))
        self._first: tuple[Arrays, Arrays] | None = None

    def first(self) -> tuple[Arrays, Arrays]:
        """The first of :meth:`calls`."""
        if self._first is None:
            inputs = next(iter(self._inputs))
            self._first = inputs, self._run(inputs)
        return self._first

    def calls(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Inputs and outputs of all calls."""
        yield self.first()
        for inputs in islice(self._inputs, 1, None):
            yield inputs, self._run(inputs)

    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The outputs, whose shapes must not depend on the values of the inputs.

        Raises:
            ExportError: they do.
        """
        fixed = self._network.fixed
        found = [
            tuple(TensorSpec(name, array.dtype.name, array.shape) for name, array in outputs.items())
            for _, outputs in islice(self.calls(), 1 if fixed else 2)
        ]
        nodes = {node.op_type for node in self._model.graph.node}
        nodes |= {node.op_type for body in self._model.functions for node in body.node}
        reason = sorted(nodes & _DATA_DEPENDENT)
        if len(set(found)) > 1 or (reason and not fixed):
            got = ", ".join(reason) or " and ".join(", ".join(map(str, specs)) for specs in found)
            raise ExportError(
                f"outputs of {self._path}",
                expected="shapes that are the same for all inputs: an engine has fixed ones",
                got=got,
                fix="export the network without its last steps (non-maximum suppression, nonzero), and do "
                "them behind the engine",
            )
        return found[0]

    def _run(self, inputs: Arrays) -> Arrays:
        try:
            return self._network.run(inputs)
        except Exception as error:
            raise ExportError(
                f"{self._path} does not run in ONNX Runtime",
                got=one_line(error),
                fix="check the file; or verify on inputs like those in use: --frames FILE.npz",
            ) from error


class _Unoptimized:
    """A graph in ONNX Runtime without optimizations: these could hide what the graph does to values.

    Attributes:
        fixed: whether the shapes of all outputs are known before it runs.
    """

    def __init__(self, payload: bytes, path: str) -> None:
        self._session = open_session(payload, path, usable_cores(), OrtDevice(), optimize=False)
        outputs = self._session.get_outputs()
        self._names = [node.name for node in outputs]
        self.fixed = all(isinstance(side, int) for node in outputs for side in node.shape)

    def run(self, inputs: Arrays) -> Arrays:
        return dict(zip(self._names, self._session.run(self._names, dict(inputs)), strict=True))


def verify_network(
    plan: ExportPlan,
    calls: Calls,
    source: str,
    graph: bytes,
    payload: bytes,
    manifest: NetworkManifest,
    reason: str,
) -> NetworkManifest:
    """The manifest of an artifact with the result of its comparison with the float32 file.

    An engine is compared if it runs here; else its graph is. A float16 graph is compared as a GPU computes
    it, which ONNX Runtime on a CPU does not: see :mod:`imp_trt.export.onnx.float16_rounding`.

    Args:
        plan: of the export.
        calls, source: to verify on, and their origin.
        graph: the ONNX file of the artifact.
        payload, manifest: the artifact.
        reason: why an engine cannot run on this machine, or empty.

    Raises:
        VerificationError: an output agrees less than the tolerance of the precision requires.
    """
    verified_on: VerifiedOn = ENGINE if manifest.kind == "engine" and not reason else ONNXRUNTIME
    runs: dict[str, _Run] = {}
    milliseconds: list[float] = []
    with ExitStack() as stack:
        if manifest.kind == "onnx" or verified_on == ENGINE:
            runs["outputs"] = _timed(_opened(stack, payload, manifest), milliseconds)
        rounded = verified_on == ONNXRUNTIME and manifest.precision == "fp16" and _rounded(graph, plan.path)
        if rounded:
            runs["outputs_rounded"] = rounded
        if not runs:
            runs["outputs"] = _Unoptimized(graph, str(plan.path)).run
        tolerance = TOLERANCES[manifest.precision]
        agreement = compare_arrays(runs, _reported(calls(), plan.progress), manifest.outputs, tolerance)
    for each in agreement.values():
        enforce_arrays(each, manifest.precision, exported=manifest_path(plan.weights).exists())
    warn_of_untested(next(iter(agreement.values())), manifest.precision)
    entry = {name: value for name, value in manifest.verification.items() if name != "skipped"} | {
        "verified_on": verified_on,
        "against": "the float32 file in ONNX Runtime, without optimizations",
        "source": source,
        "calls": max(each.calls for outputs in agreement.values() for each in outputs.values()),
        "tolerance": {"difference": tolerance.difference, "share": tolerance.share},
    }
    for name, outputs in agreement.items():
        entry[name] = {output: each.to_dict() for output, each in outputs.items()}
    benchmark = _benchmark(plan, verified_on, milliseconds) if milliseconds else {}
    return replace(manifest, verification=entry, benchmark=benchmark)


def _opened(stack: ExitStack, payload: bytes, manifest: NetworkManifest) -> _Run:
    """The artifact as its users run it."""
    folder = stack.enter_context(temporary_folder("imp_trt_export_"))
    suffix = ".engine" if manifest.kind == "engine" else ".onnx"
    backend = open_network(write_artifact(folder / f"candidate{suffix}", payload, manifest))
    stack.callback(backend.close)
    return backend.run


def _rounded(graph: bytes, path: Path) -> _Run | None:
    """The float16 graph with the rounding of a GPU; None on a device without the package onnx."""
    try:
        import onnx

        from imp_trt.export.onnx.float16_rounding import with_float16_rounding
    except ImportError:
        return None
    rounded = with_float16_rounding(onnx.load_model_from_string(graph))
    return _Unoptimized(rounded.SerializeToString(deterministic=True), f"{path}, rounded to float16").run


def _reported(calls: Iterator[tuple[Arrays, Arrays]], progress: Progress) -> Iterator[tuple[Arrays, Arrays]]:
    for i, call in enumerate(calls):
        progress("verify", i, i + 1)
        yield call


def _timed(run: _Run, milliseconds: list[float]) -> _Run:
    def timed(inputs: Arrays) -> Arrays:
        started = time.perf_counter()
        outputs = run(inputs)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        return outputs

    return timed


def _benchmark(plan: ExportPlan, verified_on: VerifiedOn, milliseconds: list[float]) -> dict[str, object]:
    gpu = plan.platform.gpu
    where = f"{gpu.name}, " if verified_on == ENGINE and isinstance(gpu, Gpu) else ""
    return {
        "network_ms": round(sorted(milliseconds)[len(milliseconds) // 2], 2),
        "machine": f"{where}{machine.machine()}, {usable_cpus()} CPUs",
        "note": "median over the calls, the first included; inputs and outputs in host memory",
    }
