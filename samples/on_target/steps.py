"""The steps of the on-target check: a name, a command, and whether it needs the GPU."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SKIPPED_EXIT = 5
"""Exit code of a step that lacks a dependency or a GPU; pytest's own 5 means that it found no test."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what it shows.
        command: program and arguments.
        on_gpu: whether it runs anything on the GPU.
        timeout_s: seconds before it counts as failed.
    """

    name: str
    command: tuple[str, ...]
    on_gpu: bool = True
    timeout_s: int = 1800


def plan(options: argparse.Namespace) -> list[Step]:
    """The steps in order; later ones use the files of earlier ones."""
    work: Path = options.work
    library = work / "plugins" / "libimp_trt_plugins.so"
    steps = [
        Step("machine", _command("doctor", "--json"), on_gpu=False),
        Step("kernels and plugin harness: tests/gpu", _script("gpu_tests.py")),
        Step("C++ plugin library", _script("build_library.py", str(library)), on_gpu=False),
    ]
    for precision in options.precisions:
        steps += _engine_steps(options, precision, library)
    steps.append(
        Step(
            "the IMP kernel against Algorithm 1 and PyTorch",
            (
                sys.executable,
                "-m",
                "tests.bench.bench_mask_projection_cuda",
                "--json",
                str(work / "imp.json"),
            ),
        )
    )
    steps.append(
        Step(
            "RoIAlign against torchvision",
            (
                sys.executable,
                "-m",
                "tests.bench.bench_multilevel_roi_align_cuda",
                "--json",
                str(work / "roi.json"),
            ),
        )
    )
    steps.append(Step("Torch-TensorRT compiles the operator", _script("torch_tensorrt_compile.py")))
    return steps


def _engine_steps(options: argparse.Namespace, precision: str, library: Path) -> list[Step]:
    """Build and verify an engine, then run it with either plugin."""
    export = ["--engine", precision, "--target", options.target, "--plugin", "--json"]
    if options.weights:
        export += ["--weights", str(options.weights)]
    if options.frames:
        export += ["--frames", str(options.frames)]
    if options.calib and precision in ("int8", "fp8"):
        export += ["--calib", str(options.calib)]
    folder = options.work / precision
    with_library = ["--plugin-library", str(library), "-o", str(options.work / f"{precision}_cpp")]
    steps = [
        Step(f"{precision}: build and verify", _command("export", *export, "--keep-onnx", "-o", str(folder))),
        Step(f"{precision}: graph, ONNX Runtime, latency", _script("run_engine.py", str(folder))),
        Step(
            f"{precision}: the same engine, C++ plugin",
            _script("run_engine.py", str(folder), "--library", str(library)),
        ),
    ]
    if precision == options.precisions[0]:
        steps.append(
            Step(f"{precision}: build with the C++ plugin", _command("export", *export, *with_library))
        )
    return steps


def _command(name: str, *arguments: str) -> tuple[str, ...]:
    # The module, so that it is the package of this interpreter whatever PATH says.
    code = f"import sys; from imp_trt.cli.{name} import main; sys.exit(main())"
    return (sys.executable, "-c", code, *arguments)


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, os.fspath(HERE / name), *arguments)
