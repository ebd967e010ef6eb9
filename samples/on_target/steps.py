# SPDX-License-Identifier: Apache-2.0
"""The steps of the on-target check: a name, a command, and what it shows."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SKIPPED_EXIT = 5
"""Exit code of a step that lacks a dependency or a GPU; pytest's own 5 means that it found no test."""


@dataclass(frozen=True)
class Step:
    """One command, run in the root of the checkout.

    Attributes:
        name: what it shows.
        command: program and arguments; paths are absolute.
        runs: what it runs on the GPU if it passes: "engine", "kernels" or nothing.
        timeout_s: seconds before it counts as failed.
    """

    name: str
    command: tuple[str, ...]
    runs: str = ""
    timeout_s: int = 1800


def plan(options: argparse.Namespace) -> list[Step]:
    """The steps in order; later ones use the files of earlier ones."""
    library = options.work / "plugins" / "libimp_trt_plugins.so"
    # NVIDIA documents plugins as unsupported in TensorRT-RTX: imp-export compiles the bodies there.
    forms = ("plugin",) if options.target != "tensorrt-rtx" else ("function", "plugin")
    steps = [
        Step("machine", _command("doctor", "--json")),
        Step("kernels and plugin harness: tests/gpu", _script("gpu_tests.py"), "kernels"),
        Step("C++ plugin library", _script("build_library.py", str(library))),
    ]
    for precision in options.precisions:
        for form in forms:
            steps += _engine_steps(options, precision, form)
        steps += _library_steps(options, precision, library)
    return [
        *steps,
        _benchmark(options, "the IMP kernel against Algorithm 1 and PyTorch", "mask_projection"),
        _benchmark(options, "RoIAlign against torchvision", "multilevel_roi_align"),
        Step("Torch-TensorRT compiles the operator", _script("torch_tensorrt_compile.py"), "kernels"),
    ]


def _engine_steps(options: argparse.Namespace, precision: str, form: str) -> list[Step]:
    """Build and verify an engine, then run it."""
    folder = options.work / f"{precision}_{form}"
    how = "--plugin" if form == "plugin" else "--no-plugin"
    build = _export(options, precision, how, "--keep-onnx", "-o", str(folder))
    return [
        Step(f"{precision}, {form}: build and verify", build, "engine"),
        Step(
            f"{precision}, {form}: graph, ONNX Runtime, latency",
            _script("run_engine.py", str(folder)),
            "engine",
        ),
    ]


def _library_steps(options: argparse.Namespace, precision: str, library: Path) -> list[Step]:
    """The engine of the Python plugin with the C++ plugin, and one that was built with it."""
    folder = str(options.work / f"{precision}_plugin")
    steps = [
        Step(
            f"{precision}: the same engine, C++ plugin",
            _script("run_engine.py", folder, "--plugin-library", str(library)),
            "engine",
        )
    ]
    if precision == options.precisions[0]:
        build = _export(
            options, precision, "--plugin-library", str(library), "-o", str(options.work / f"{precision}_cpp")
        )
        steps.append(Step(f"{precision}: build with the C++ plugin", build, "engine"))
    return steps


def _export(options: argparse.Namespace, precision: str, *more: str) -> tuple[str, ...]:
    arguments = ["--engine", precision, "--target", options.target, "--json", *more]
    if options.weights:
        arguments += ["--weights", str(options.weights)]
    if options.frames:
        arguments += ["--frames", str(options.frames)]
    if options.calib and precision in ("int8", "fp8"):
        arguments += ["--calib", str(options.calib)]
    return _command("export", *arguments)


def _benchmark(options: argparse.Namespace, name: str, op: str) -> Step:
    module = f"tests.bench.bench_{op}_cuda"
    return Step(name, (sys.executable, "-m", module, "--json", str(options.work / f"{op}.json")), "kernels")


def _command(name: str, *arguments: str) -> tuple[str, ...]:
    # The module, so that it is the package of this interpreter whatever PATH says.
    code = f"import sys; from imp_trt.cli.{name} import main; sys.exit(main())"
    return (sys.executable, "-c", code, *arguments)


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, os.fspath(HERE / name), *arguments)
