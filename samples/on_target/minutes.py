# SPDX-License-Identifier: Apache-2.0
"""The run of a few minutes on a GPU from a bare checkout: what decides the most comes first."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from pathlib import Path

from budget import Record, Run, TimedStep
from checkout import ROOT
from steps import HERE

FULL_MINUTES = 8
"""Minutes for the caps of all steps; with fewer the last are not run, with more every cap grows."""


def plan(options: argparse.Namespace) -> list[TimedStep]:
    """The steps in the order of what they decide; paths are absolute."""
    steps = [*_checks_of_operators(options.work / "plugins"), *_times_and_integrations(options.engine)]
    scale = max(1.0, options.minutes / FULL_MINUTES)
    chosen = [step for step in steps if not options.only or options.only in step.name]
    return [TimedStep(**{**vars(step), "cap_s": step.cap_s * scale}) for step in _with_needs(chosen, steps)]


def _checks_of_operators(build: Path) -> list[TimedStep]:
    library, harness = build / "libimp_trt_plugins.so", build / "plugin_harness"
    built = ("--harness", str(harness), "--library", str(library))
    return [
        TimedStep("machine", "what the figures belong to", _module("machine"), 10),
        TimedStep(
            "C++ build",
            "whether the plugin library and its harness compile",
            _script("build_library.py", str(library), "--harness"),
            150,
            background=True,
        ),
        TimedStep(
            "kernels",
            "registers; bits of the CPU operator, distance to the float64 reference; 100 runs",
            _gpu_module("check_kernels"),
            55,
            on_gpu=True,
        ),
        TimedStep(
            "tests/gpu", "every GPU test", _gpu_script("gpu_tests.py", "--kernels-only"), 105, on_gpu=True
        ),
        TimedStep(
            "C++ harness",
            "the C++ plugins through their own interface, also in a graph",
            _gpu_module("check_harness", *built),
            30,
            on_gpu=True,
            after="C++ build",
        ),
        *(
            TimedStep(tool, decides, _gpu_module("check_sanitizer", tool, *built), 40, on_gpu=True)
            for tool, decides in (
                ("memcheck", "no access out of bounds, where a planted one is found"),
                ("racecheck", "no race in shared memory, where a planted one is found"),
            )
        ),
    ]


def _times_and_integrations(engine: Path | None) -> list[TimedStep]:
    arguments = ("--engine", str(engine)) if engine else ()
    return [
        TimedStep(
            "operators",
            "times of IMP against Algorithm 1, backward, letterbox, RoIAlign against torchvision's",
            _gpu_module("time_operators"),
            80,
            on_gpu=True,
        ),
        TimedStep(
            "deploy module",
            "times of the network in PyTorch, eager and as a CUDA graph; the cost of IMP",
            _gpu_module("time_deploy_module"),
            60,
            on_gpu=True,
        ),
        TimedStep(
            "PyCUDA sample",
            "whether frames of PyCUDA reach the network",
            _gpu_module("check_pycuda", *arguments),
            20,
            on_gpu=True,
        ),
        TimedStep(
            "Torch-TensorRT",
            "whether the operator's converter compiles",
            _gpu_script("torch_tensorrt_compile.py"),
            40,
            on_gpu=True,
        ),
    ]


def run(options: argparse.Namespace, command: list[str]) -> int:
    """Run within options.minutes; the exit code of `Run.go`, or of an error that is printed."""
    from imp_trt.errors import ImpTrtError

    try:
        return _run(options, command)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace, command: list[str]) -> int:
    import imp_trt

    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    steps = plan(options)
    if not steps:
        from imp_trt.errors import UsageError

        raise UsageError(f"--only {options.only}", expected="part of the name of a step", got="no such step")
    about = {
        "imp_trt": imp_trt.__version__,
        "command": " ".join(["python", os.path.relpath(command[0], ROOT), *command[1:]]),
        "started": started,
        "minutes": options.minutes,
    }
    record = Record(_new(options.out, started), about, steps)
    return Run(steps, 60 * options.minutes, record).go()


def _with_needs(chosen: list[TimedStep], steps: list[TimedStep]) -> list[TimedStep]:
    needed = {step.after for step in chosen} | {step.name for step in chosen}
    return [step for step in steps if step.name in needed]


def _new(folder: Path, started: str) -> Path:
    """A file that does not exist yet: one per run."""
    from imp_trt.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in itertools.count():
            path = folder / f"{started}{f'-{number}' if number else ''}.json"
            if not path.exists():
                return path
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written", got=error.strerror, fix="choose another --out"
        ) from error
    raise AssertionError("there is always one")


def _script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, os.fspath(HERE / name), *arguments)


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"tests.gpu.steps.{name}", *arguments)


def _gpu_script(name: str, *arguments: str) -> tuple[str, ...]:
    return _module("on_gpu", os.fspath(HERE / name), *arguments)


def _gpu_module(name: str, *arguments: str) -> tuple[str, ...]:
    return _module("on_gpu", f"tests.gpu.steps.{name}", *arguments)
