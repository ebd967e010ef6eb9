# SPDX-License-Identifier: Apache-2.0
"""Steps within some minutes: each has a cap, results are written as they come, a table ends the run."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import Child

SKIPPED_EXIT, INTERRUPTED_EXIT = 5, 130
LEAST_S = 2.0  # a step with less time left is not started
KEPT_LINES = 40  # of each stream of a step
FLUSH_S = 0.5  # from a result to the file

OUT_OF_TIME = "time: the minutes were used up"

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
CUT_OFF, NOT_RUN, INTERRUPTED = "cut off", "not run", "interrupted"


@dataclass(frozen=True)
class TimedStep:
    """One command of a run.

    Attributes:
        name: key in the record.
        decides: the question that it answers.
        command: program and arguments. Lines of its output that are JSON objects are merged into the record;
            "verdict" in one of them is text for the table. Exit code 5: something is missing, which the last
            line of its standard error names.
        cap_s: seconds after which it is ended.
        on_gpu: whether it shows, if it passes, that kernels ran.
        background: whether it runs concurrently with the following steps.
        after: name of the background step to wait for.
    """

    name: str
    decides: str
    command: tuple[str, ...]
    cap_s: float
    on_gpu: bool = False
    background: bool = False
    after: str = ""


class Record:
    """The file of one run, rewritten after every result; steps report from threads of their own.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any], steps: Sequence[TimedStep]) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._unwritten = False
        self.values: dict[str, Any] = {**about, "complete": False}
        self.steps: dict[str, dict[str, Any]] = {
            step.name: {"step": step.name, "state": NOT_RUN, "seconds": 0.0, "cap_s": round(step.cap_s, 1)}
            | {"verdict": "", "missing": "", "decides": step.decides}
            for step in steps
        }
        self.write()

    def take(self, step: str, line: str) -> None:
        """Merge a line of a step's output if it is a JSON object; keep it as text otherwise."""
        found = _object(line)
        with self._lock:
            entry = self.steps[step]
            if found is None:
                lines = entry.setdefault("output", [])
                lines.append(line)
                del lines[:-KEPT_LINES]
                return
            entry["verdict"] = found.pop("verdict", entry["verdict"])
            _merge(self.values, found)
            self._unwritten = True

    def end(self, step: str, state: str, seconds: float, errors: Sequence[str], missing: str = "") -> None:
        with self._lock:
            entry = self.steps[step]
            entry |= {"state": state, "seconds": round(seconds, 1), "missing": missing}
            if errors:
                entry["errors"] = list(errors)[-KEPT_LINES:]
            self.write()

    def flush(self) -> None:
        """Write what was taken since the last time."""
        if self._unwritten:
            self.write()

    def write(self) -> None:
        from imp_trt.data import write_atomically

        with self._lock:
            self._unwritten = False
            report = {**self.values, "steps": list(self.steps.values())}
            write_atomically(self.path, (json.dumps(report, indent=1) + "\n").encode())


class Run:
    """Runs steps in order until they, or the seconds, are used up.

    Args:
        steps: in the order of what they decide.
        seconds: for all of them.
        record: what is written.
    """

    def __init__(self, steps: Sequence[TimedStep], seconds: float, record: Record) -> None:
        self.steps, self.record = steps, record
        self.seconds = seconds
        self._start = time.monotonic()
        self._running: dict[str, tuple[Child, float]] = {}  # name -> process and when it started

    def go(self) -> int:
        """Run; prints a line per step and the table.

        Returns:
            The exit code: 0 no step failed and kernels ran on a GPU, 1 a step failed, 5 nothing ran on a GPU,
            130 interrupted.
        """
        before = signal.signal(signal.SIGTERM, _interrupt)
        interrupted = False
        try:
            for step in self.steps:
                if step.background:
                    self._begin(step)
            for step in self.steps:
                if not step.background:
                    self._run(step)
            self.record.values["complete"] = True
        except KeyboardInterrupt:
            interrupted = True
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the table comes first
            self._end_all(INTERRUPTED if interrupted else CUT_OFF)
            self.record.values["seconds"] = round(self._spent(), 1)
            self.record.write()
            signal.signal(signal.SIGTERM, before)
        print(table(self.record), flush=True)
        return INTERRUPTED_EXIT if interrupted else verdict(self.steps, self.record)

    def _spent(self) -> float:
        return time.monotonic() - self._start

    def _left(self, step: TimedStep) -> float:
        return min(step.cap_s, self.seconds - self._spent())

    def _begin(self, step: TimedStep) -> bool:
        try:
            child = Child(step.command, lambda line: self.record.take(step.name, line))
        except OSError as error:
            self._finish(step.name, SKIPPED, 0.0, [], f"{step.command[0]}: {error.strerror}")
            return False
        self._running[step.name] = (child, time.monotonic())
        return True

    def _run(self, step: TimedStep) -> None:
        if step.after:
            self._wait_for(step)
        if self._left(step) < LEAST_S:
            self._finish(step.name, NOT_RUN, 0.0, [], OUT_OF_TIME)
        elif self._begin(step):
            self._await(step, self._left(step))

    def _wait_for(self, step: TimedStep) -> None:
        """Wait within a step's cap for the background step whose files it uses."""
        before = next(one for one in self.steps if one.name == step.after)
        if before.name in self._running:
            child, start = self._running[before.name]
            if child.wait(self._left(step)) is not None:
                self._await(before, 0)
            elif time.monotonic() - start > before.cap_s:
                self._cut_off(before.name, child, start, before.cap_s)

    def _await(self, step: TimedStep, seconds: float) -> None:
        child, start = self._running[step.name]
        end = time.monotonic() + seconds
        code = child.wait(min(FLUSH_S, seconds))
        while code is None and time.monotonic() < end:
            self.record.flush()
            code = child.wait(min(FLUSH_S, end - time.monotonic()))
        if code is None:
            self._cut_off(step.name, child, start, seconds)
        elif code == SKIPPED_EXIT:
            self._done(step.name, SKIPPED, start, child, _last(child.errors) or "no reason was given")
        else:
            self._done(step.name, PASSED if code == 0 else FAILED, start, child)
            if code and not self.record.steps[step.name]["verdict"]:
                self.record.steps[step.name]["verdict"] = _last(child.errors) or f"exit code {code}"

    def _cut_off(self, name: str, child: Child, start: float, seconds: float) -> None:
        by_cap = self._spent() < self.seconds - LEAST_S
        child.end()
        why = f"over its cap of {seconds:.0f} s" if by_cap else OUT_OF_TIME
        self._done(name, CUT_OFF, start, child, why)

    def _done(self, name: str, state: str, start: float, child: Child, missing: str = "") -> None:
        self._running.pop(name, None)
        self._finish(name, state, time.monotonic() - start, child.errors, missing)

    def _finish(self, name: str, state: str, seconds: float, errors: list[str], missing: str = "") -> None:
        self.record.end(name, state, seconds, errors, missing)
        print(f"{self._spent():6.1f} s  {_line(self.record.steps[name])}", flush=True)

    def _end_all(self, state: str) -> None:
        running = list(self._running.items())
        for _, (child, _) in running:
            child.end()
        for name, (child, start) in running:
            self._done(name, state, start, child, OUT_OF_TIME if state == CUT_OFF else "")


def verdict(steps: Sequence[TimedStep], record: Record) -> int:
    """The exit code of a run that was not interrupted."""
    states = {step.name: record.steps[step.name]["state"] for step in steps}
    if FAILED in states.values() or any(_over_its_cap(record.steps[name]) for name in states):
        return 1
    ran = any(step.on_gpu and states[step.name] == PASSED for step in steps)
    return 0 if ran else SKIPPED_EXIT


def table(record: Record) -> str:
    """Seconds, verdict and what is missing, for each step; below it every time that was measured."""
    lines = [f"{'step':<22} {'seconds':>8} {'cap':>5}  verdict"]
    for entry in record.steps.values():
        lines.append(f"{entry['step']:<22} {entry['seconds']:8.1f} {entry['cap_s']:5.0f}  {_text(entry)}")
    for key, value in record.values.items():
        if key.endswith("_us"):
            rows = value.items() if isinstance(value, dict) else [("", value)]
            lines += [f"{key:<34} {case:<44} {time_us:10.2f}" for case, time_us in rows]
    return "\n".join([*lines, f"record {record.path}"])


def _line(entry: dict[str, Any]) -> str:
    return f"{entry['step']:<22} {entry['seconds']:7.1f} s  {_text(entry)}"


def _text(entry: dict[str, Any]) -> str:
    text = str(entry["state"])
    if entry["verdict"]:
        text += f": {entry['verdict']}"
    return f"{text}; missing: {entry['missing']}" if entry["missing"] else text


def _over_its_cap(entry: dict[str, Any]) -> bool:
    return entry["state"] == CUT_OFF and str(entry["missing"]).startswith("over its cap")


def _object(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
