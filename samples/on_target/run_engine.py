# SPDX-License-Identifier: Apache-2.0
"""Run an engine and report its results: run_engine.py FOLDER [--plugin-library FILE]

The folder holds an engine, and the ONNX file it was built from (imp-export --keep-onnx). Prints, as JSON,
whether the outputs with and without CUDA graph are bitwise equal, agreement with ONNX Runtime, and latency
percentiles; writes the outputs to FOLDER/answers.npz. With --plugin-library the same engine runs with the C++
plugin instead of the Python plugin, and its outputs must be bitwise equal.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import imp_trt
from imp_trt import ImpTrtError
from imp_trt.artifacts import read_manifest
from imp_trt.errors import DependencyMissing
from imp_trt.synthetic import StreetScenes

FRAMES, WARM_UP, TIMED = 20, 50, 500
# Label agreement with ONNX Runtime on the same graph. Its CPU backend has no bfloat16 convolutions.
MIN_AGREEMENT = {"fp32": 0.998, "fp16": 0.998, "int8": 0.98, "fp8": 0.98}

Outputs = dict[str, NDArray[Any]]


def answers(path: Path, frames: list[NDArray[np.uint8]], **options: Any) -> Outputs:
    """Return class map, boxes and scores of all frames."""
    outputs: Outputs = {}
    with imp_trt.Segmenter(path, **options) as segmenter:
        for i, frame in enumerate(frames):
            result = segmenter.run(frame)
            outputs[f"semantic{i}"] = result.semantic
            outputs[f"boxes{i}"], outputs[f"scores{i}"] = result.instances.boxes, result.instances.scores
    return outputs


def answers_and_warnings(path: Path, frames: list[NDArray[np.uint8]]) -> tuple[Outputs, list[str]]:
    """Return outputs, and warnings if the engine runs without a CUDA graph."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("imp_trt.backends")
    logger.addHandler(handler)
    try:
        return answers(path, frames), [text for text in messages if "CUDA graph" in text]
    finally:
        logger.removeHandler(handler)


def same_bits(first: Outputs, second: Outputs) -> bool:
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def label_agreement(first: Outputs, second: Outputs) -> float:
    names = [name for name in first if name.startswith("semantic")]
    return float(np.mean([np.mean(first[name] == second[name]) for name in names]))


def latency(path: Path, frames: list[NDArray[np.uint8]], **options: Any) -> dict[str, Any]:
    """Measure Segmenter.run until the class map is in host memory, in ms."""
    times = []
    with imp_trt.Segmenter(path, **options) as segmenter:
        for frame in itertools.islice(itertools.cycle(frames), WARM_UP + TIMED):
            start = time.perf_counter()
            _ = segmenter.run(frame).semantic
            times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[WARM_UP:], [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3), "runs": TIMED, "warm_up": WARM_UP}


def check(path: Path, folder: Path, frames: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """The engine with the Python plugin."""
    with_graph, uncaptured = answers_and_warnings(path, frames)
    manifest = read_manifest(path)
    report: dict[str, Any] = {
        "not_captured": uncaptured,
        "graph_equals_enqueue": same_bits(with_graph, answers(path, frames, graph=False)),
        "twice_the_same_bits": same_bits(with_graph, answers(path, frames)),
        "latency_graph": latency(path, frames),
        "latency_enqueue": latency(path, frames, graph=False),
    }
    passed = [report["graph_equals_enqueue"], report["twice_the_same_bits"]]
    # TensorRT-RTX uses internal graphs if it cannot be captured.
    passed.append(not uncaptured or manifest.target == "tensorrt-rtx")
    if manifest.precision in MIN_AGREEMENT:
        agreement = label_agreement(with_graph, answers(path.with_suffix(".onnx"), frames))
        report["labels_equal_to_onnxruntime"] = agreement
        passed.append(agreement >= MIN_AGREEMENT[manifest.precision])
    np.savez(folder / "answers.npz", **with_graph)  # type: ignore[arg-type]
    return {**report, "passed": all(passed)}


def compare(path: Path, folder: Path, frames: list[NDArray[np.uint8]]) -> dict[str, Any]:
    """The engine with the C++ plugin."""
    with np.load(folder / "answers.npz") as earlier:
        same = same_bits(answers(path, frames), dict(earlier))
    return {"cpp_plugin_gives_the_same_bits": same, "latency_graph": latency(path, frames), "passed": same}


def newest_engine(folder: Path) -> Path:
    """The engine that was built last: a folder may hold those of earlier runs with other targets or weights.

    Raises:
        DependencyMissing: there is none.
    """
    engines = list(folder.glob("*.engine"))
    if not engines:
        raise DependencyMissing(f"no engine in {folder}", fix="see the step that builds it")
    return max(engines, key=lambda path: path.stat().st_mtime_ns)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plugin-library", type=Path)
    options = parser.parse_args()
    try:
        engine = newest_engine(options.folder)
        if options.plugin_library and not options.plugin_library.exists():
            raise DependencyMissing(f"no library {options.plugin_library}", fix="see the step that builds it")
        if options.plugin_library:
            os.environ["IMP_TRT_PLUGIN_LIBRARY"] = str(options.plugin_library.absolute())
        frames = [sample.image for sample in StreetScenes(seed=99, length=FRAMES)]
        figures = (compare if options.plugin_library else check)(engine, options.folder, frames)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"engine": str(engine), **figures}, indent=1))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
