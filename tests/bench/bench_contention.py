# SPDX-License-Identifier: Apache-2.0
"""Two threads of ONNX Runtime against one, with both cores idle and with one taken by another program.

    python -m tests.bench.bench_contention ARTIFACT.onnx [--rounds 12] [--processes 4]

For choosing the session options of imp_trt/backends/onnxruntime.py. Each choice runs in several processes,
because the system's scheduler places the threads of a session once and often leaves them there; in each, a
session with one thread and one with two run in turns. Printed are the medians over all pairs of runs of wall
time and CPU time, their ratio to one thread, and the lowest and highest median ratio of a process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imp_trt.backends.onnxruntime import SESSION_CONFIG
from imp_trt.backends.onnxruntime_import import import_onnxruntime

SPINNING, SPIN_US = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
BLOCK = "session.dynamic_block_base"

CHOICES: dict[str, dict[str, str]] = {
    "of the backend": {},
    "spin without limit": {SPINNING: "1", SPIN_US: "-1", BLOCK: "0"},
    "no spinning": {SPINNING: "0", BLOCK: "0"},
    "no spinning, blocks of 4": {SPINNING: "0", BLOCK: "4"},
    "spin 10 us, blocks of 4": {SPINNING: "1", SPIN_US: "10", BLOCK: "4"},
    "spin 20 us": {SPINNING: "1", SPIN_US: "20", BLOCK: "0"},
    "spin 20 us, blocks of 4": {SPINNING: "1", SPIN_US: "20", BLOCK: "4"},
    "spin 50 us, blocks of 4": {SPINNING: "1", SPIN_US: "50", BLOCK: "4"},
}
"""Session options that replace those of the backend; spin_duration_us is unknown to older versions."""

Pair = tuple[float, float, float, float]
"""Seconds of one thread and of two: wall, CPU, wall, CPU."""


def measure(path: Path, choice: str, rounds: int, busy: bool) -> list[Pair]:
    """Runs of both sessions in turns; with another program on the last CPU if busy."""
    ort = import_onnxruntime()

    def session(threads: int, config: dict[str, str]) -> object:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute, options.log_severity_level = True, 4
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    both = session(1, SESSION_CONFIG), session(2, {**SESSION_CONFIG, **CHOICES[choice]})
    node = both[0].get_inputs()[0]  # type: ignore[attr-defined]
    frame = np.random.default_rng(0).integers(0, 256, node.shape, dtype=np.uint8)
    outputs = [one.run(None, {node.name: frame}) for one in both]  # type: ignore[attr-defined]
    assert np.mean(outputs[0][0] == outputs[1][0]) > 0.999
    other = None
    if busy:
        program = f"import os; os.sched_setaffinity(0, {{{max(os.sched_getaffinity(0))}}})\nwhile True: pass"
        other = subprocess.Popen([sys.executable, "-c", program])
        time.sleep(0.3)
    try:
        pairs = []
        for _ in range(rounds):
            times: list[float] = []
            for one in both:
                cpu, wall = time.process_time(), time.perf_counter()
                one.run(None, {node.name: frame})  # type: ignore[attr-defined]
                times += [time.perf_counter() - wall, time.process_time() - cpu]
            pairs.append((times[0], times[1], times[2], times[3]))
        return pairs
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES))
    parser.add_argument("--one", nargs=2, metavar=("CHOICE", "BUSY"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        print(json.dumps(measure(options.artifact, options.one[0], options.rounds, options.one[1] == "busy")))
        return 0
    found: dict[tuple[str, str], list[list[Pair]]] = {}
    for _ in range(options.processes):
        for state in ("idle", "busy"):
            for choice in options.choices:
                command = [sys.executable, "-m", "tests.bench.bench_contention", str(options.artifact)]
                command += ["--rounds", str(options.rounds), "--one", choice, state]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found.setdefault((state, choice), []).append(json.loads(done.stdout))
    print(f"{'':34}{'1 thread':>10}{'2 threads':>10}{'CPU':>8}{'ratio':>7}  of processes")
    for (state, choice), processes in found.items():
        pairs = [pair for process in processes for pair in process]
        one, _, two, cpu = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(pair[2] / pair[0] for pair in pairs)
        each = [statistics.median(pair[2] / pair[0] for pair in process) for process in processes]
        print(
            f"{state}, {choice:<28}{one:>7.1f} ms{two:>7.1f} ms{cpu:>5.1f} ms{ratio:>7.2f}"
            f"  {min(each):.2f} to {max(each):.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
