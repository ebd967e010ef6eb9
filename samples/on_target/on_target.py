# SPDX-License-Identifier: Apache-2.0
"""Run all checks that need a GPU and write one report file.

python samples/on_target/on_target.py -o report.json
python samples/on_target/on_target.py --minutes 8 --out results

Each step runs in a child process, so that a crash ends only that step. The report is rewritten after each
step. Exit code: 0 no step failed and an engine ran on the GPU, 1 a step failed,
5 no engine ran.

--minutes: a run without TensorRT from a bare checkout, nothing installed but PyTorch, NumPy, OpenCV,
cuda-bindings, pytest and hypothesis. Steps come in the order of what they decide; each has a cap; every
result is written to one JSON file in --out as it comes. The end of the minutes and Ctrl-C end it with a
table. Exit code: 0 no step failed and kernels ran on the GPU, 1 a step failed or ran over its cap, 5 nothing
ran on a GPU, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import checkout
import minutes
from children import TIMEOUT_EXIT, Child
from steps import SKIPPED_EXIT, Step, plan

KEPT_CHARACTERS = 4000  # of each stream of each step; errors are at the end
GRACE_S = 20  # for a step to end after SIGTERM


def run(step: Step) -> dict[str, Any]:
    """Run one step; passed, failed or skipped by its exit code."""
    start = time.perf_counter()
    try:
        code, out, err = _finish(step)
    except OSError as error:
        code, out, err = SKIPPED_EXIT, "", f"{step.command[0]}: {error.strerror}"
    state = {0: "passed", SKIPPED_EXIT: "skipped"}.get(code, "failed")
    result = _json(out)
    entry = {
        "name": step.name,
        "state": state,
        "ran_on_gpu": step.runs if state == "passed" else "",
        "exit_code": code,
        "seconds": round(time.perf_counter() - start, 1),
        "command": shlex.join(step.command),
        "result": result,
        "stdout": out[-KEPT_CHARACTERS:],
        "stderr": err[-KEPT_CHARACTERS:],
    }
    where = result.get("verification", {}).get("verified_on") if isinstance(result, dict) else None
    if where not in (None, "engine"):  # the engine was built but its graph was verified on another backend
        entry |= {"ran_on_gpu": "", "note": f"the engine was not run; its graph was, in {where}"}
    return entry


def _finish(step: Step) -> tuple[int, str, str]:
    """Return exit code and output of a step; its processes have always ended."""
    lines: list[str] = []
    child = Child(step.command, lines.append)
    try:
        code = child.wait(step.timeout_s)
        if code is None:
            return TIMEOUT_EXIT, "", f"timeout after {step.timeout_s} s"
        return code, "\n".join(lines), "\n".join(child.errors)
    finally:
        child.end(GRACE_S)


def _json(text: str) -> Any:
    """A step's output, or its last line: some print their results while they run."""
    for part in (text, text.strip().rpartition("\n")[2]):
        try:
            return json.loads(part)
        except ValueError:
            continue
    return None


def _reason(entry: dict[str, Any]) -> str:
    """Return the last output line of a step that did not pass, or the note of one that did."""
    lines = f"{entry['stdout']}\n{entry['stderr']}".strip().splitlines()
    return lines[-1] if lines and entry["state"] != "passed" else str(entry.get("note", ""))


def verdict(entries: list[dict[str, Any]], steps: list[Step]) -> int:
    """Return the exit code: at least one step must have run an engine (or a kernel) on the GPU."""
    if any(entry["state"] == "failed" for entry in entries):
        return 1
    required = "engine" if any(step.runs == "engine" for step in steps) else "kernels"
    return 0 if any(entry["ran_on_gpu"] == required for entry in entries) else SKIPPED_EXIT


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("on_target.json"), metavar="FILE")
    add("--work", type=_path, default=_path("on_target"), help="folder for engines and the plugin library")
    add("--target", default="tensorrt", help="tensorrt (default), tensorrt-rtx or a device of --list-targets")
    add("--weights", type=_path, help="checkpoint (default: the bundled one)")
    add("--frames", type=_path, metavar="DIR", help="images to verify on, in addition to synthetic scenes")
    add("--precisions", nargs="+", default=["fp32", "fp16"], help="of fp32 fp16 bf16 int8 fp8")
    add("--calib", type=_path, metavar="DIR", help="calibration frames, for int8 and fp8")
    add("--only", metavar="TEXT", help="run only the steps whose name contains TEXT")
    add("--minutes", type=_minutes, metavar="M", help="the run of M minutes, see above")
    add(
        "--out",
        type=_path,
        default=_path("results"),
        metavar="DIR",
        help="with --minutes: folder of its record",
    )
    add(
        "--engine",
        type=_path,
        metavar="FILE",
        help="with --minutes: engine for this GPU, for the PyCUDA sample",
    )
    options = parser.parse_args(argv)
    checkout.use()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.minutes is not None:
        return minutes.run(options, sys.argv if argv is None else [__file__, *argv])
    import imp_trt
    from imp_trt.data import write_atomically

    steps = [step for step in plan(options) if not options.only or options.only in step.name]
    if not steps:
        parser.error(f"--only {options.only}: no step has it in its name, such as {plan(options)[0].name}")
    entries: list[dict[str, Any]] = []
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.name} ...", file=sys.stderr, flush=True)
        entry = run(step)
        entries.append(entry)
        report = {"imp_trt": imp_trt.__version__, "complete": number == len(steps), "steps": entries}
        write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())
        print(f"{entry['state']:<8} {step.name:<46} {entry['seconds']:>7} s  {_reason(entry)}", flush=True)
    code = verdict(entries, steps)
    print(f"report {options.output}: " + {0: "PASSED", 1: "FAILED"}.get(code, "NO ENGINE RAN ON A GPU"))
    return code


def _path(text: str) -> Path:
    return Path(text).absolute()


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 24 * 60:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
