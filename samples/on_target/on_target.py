"""Everything that needs a real GPU, in one command and one report file.

python samples/on_target/on_target.py -o report.json

Each step is a command of its own in a child process: a crash ends that step, not the report, which is
written anew after every step. Exit code: 0 every step passed, 1 one failed, 5 no GPU step could run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from steps import SKIPPED_EXIT, Step, plan

import imp_trt
from imp_trt.files import write_atomically

KEPT_CHARACTERS = 4000  # of each stream of each step; errors stand at the end


def run(step: Step) -> dict[str, object]:
    """Run one step; passed, failed or skipped by its exit code."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            step.command, capture_output=True, text=True, timeout=step.timeout_s, check=False
        )
        code, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, out, err = 124, "", f"no end after {step.timeout_s} s"
    except OSError as error:
        code, out, err = SKIPPED_EXIT, "", f"{step.command[0]}: {error.strerror}"
    state = {0: "passed", SKIPPED_EXIT: "skipped"}.get(code, "failed")
    return {
        "name": step.name,
        "on_gpu": step.on_gpu,
        "state": state,
        "exit_code": code,
        "seconds": round(time.perf_counter() - start, 1),
        "command": " ".join(step.command),
        "result": _json(out),
        "stdout": out[-KEPT_CHARACTERS:],
        "stderr": err[-KEPT_CHARACTERS:],
    }


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _reason(entry: dict[str, object]) -> str:
    """Why a step did not pass: the last line that it said."""
    lines = f"{entry['stdout']}\n{entry['stderr']}".strip().splitlines()
    return lines[-1] if lines and entry["state"] != "passed" else ""


def verdict(entries: list[dict[str, object]]) -> int:
    """Exit code of the whole."""
    if any(entry["state"] == "failed" for entry in entries):
        return 1
    ran = any(entry["state"] == "passed" and entry["on_gpu"] for entry in entries)
    return 0 if ran else SKIPPED_EXIT


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("on_target.json"), metavar="FILE")
    parser.add_argument(
        "--work", type=Path, default=Path("on_target"), help="folder for engines and the library"
    )
    parser.add_argument("--target", default="tensorrt", help="tensorrt (default) or tensorrt-rtx")
    parser.add_argument("--weights", type=Path, help="checkpoint (default: the bundled one)")
    parser.add_argument(
        "--frames", type=Path, metavar="DIR", help="images to verify on, besides drawn scenes"
    )
    parser.add_argument(
        "--precisions", nargs="+", default=["fp32", "fp16"], help="of fp32 fp16 bf16 int8 fp8"
    )
    parser.add_argument("--calib", type=Path, metavar="DIR", help="calibration frames, for int8 and fp8")
    parser.add_argument("--only", metavar="TEXT", help="run the steps whose name contains it")
    options = parser.parse_args(argv)
    steps = [step for step in plan(options) if not options.only or options.only in step.name]
    entries: list[dict[str, object]] = []
    for number, step in enumerate(steps, 1):
        print(f"[{number}/{len(steps)}] {step.name} ...", file=sys.stderr, flush=True)
        entry = run(step)
        entries.append(entry)
        report = {"imp_trt": imp_trt.__version__, "complete": number == len(steps), "steps": entries}
        write_atomically(options.output, (json.dumps(report, indent=1) + "\n").encode())
        print(f"{entry['state']:<8} {step.name:<44} {entry['seconds']:>7} s  {_reason(entry)}", flush=True)
    code = verdict(entries)
    print(f"report {options.output}: " + {0: "PASSED", 1: "FAILED"}.get(code, "NOTHING RAN ON A GPU"))
    return code


if __name__ == "__main__":
    sys.exit(main())
