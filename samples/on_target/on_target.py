# SPDX-License-Identifier: Apache-2.0
"""Run all checks that need a GPU and write one report file.

python samples/on_target/on_target.py -o report.json

Each step runs in a child process, so that a crash ends only that step. The report is rewritten after each
step. Exit code: 0 no step failed and an engine ran on the GPU, 1 a step failed,
5 no engine ran.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps import ROOT, SKIPPED_EXIT, Step, plan

import imp_trt
from imp_trt.data import write_atomically

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
    # A new process group, so that child processes such as compilers end on a timeout too.
    child = subprocess.Popen(
        step.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=step.timeout_s)
        return child.returncode, out, err
    except subprocess.TimeoutExpired:
        return 124, "", f"timeout after {step.timeout_s} s"
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):  # SIGTERM first, so that it can remove its files
            if child.poll() is None:
                os.killpg(child.pid, sign)
                with suppress(subprocess.TimeoutExpired):
                    child.communicate(timeout=GRACE_S)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
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
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    steps = [step for step in plan(options) if not options.only or options.only in step.name]
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


if __name__ == "__main__":
    sys.exit(main())
