# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments: what an export, a training or a recording loses, and what it leaves behind.

    python -m tests.soak.kills [export] [training] [recording] [--kills 20] [--seed 0] [--json]

Each piece of work runs in a process of its own and is killed after a random time, again and again in the same
folder. After each kill:

export     the artifact can be read: the earlier pair or the new one
training   the saved state and checkpoints can be read; at the end the run is resumed, and its weights are
           those of a run that was never killed
recording  the video has all frames that were reported two seconds before the kill, the JSON Lines all that
           were reported, each line whole

At the end the work is done once more without a kill; then the folder holds its outputs only. Exit code 1:
something was lost, or more than 10 MB were left behind at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2

from imp_trt.artifacts.reading import read_artifact, read_manifest
from imp_trt.models.checkpoint import load_model
from imp_trt.train.state import read_state

ROOT = Path(__file__).resolve().parents[2]
MAX_LITTER = 10 << 20
FPS = 30
PAYLOAD = 8 << 20


@dataclass
class Outcome:
    """What came of the kills of one kind of work.

    Attributes:
        kills: processes that were killed while they worked.
        lost: what could not be read afterwards.
        litter: most bytes in files that are no output, after any kill.
        left: such files after the last, complete run.
    """

    kills: int = 0
    lost: list[str] = field(default_factory=list)
    litter: int = 0
    left: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing was lost and little left behind."""
        return not self.lost and not self.left and self.litter <= MAX_LITTER


@dataclass(frozen=True)
class Work:
    """A kind of work.

    Attributes:
        code: program of the child process; argv[1] is the folder, argv[2] a number. It prints "ready" when
            the work begins and ends with code 0.
        longest_s: kills are at random times up to this after "ready".
        check: raises AssertionError, or the reader's error, if something was lost. Gets the folder and the
            last line that the child printed.
        outputs: names of the files that stay.
    """

    code: str
    longest_s: float
    check: Callable[[Path, str], None]
    outputs: frozenset[str]


EXPORT = """
import sys
from pathlib import Path
from imp_trt.artifacts.writing import write_artifact
from tests.support import tiny
payload = bytes([int(sys.argv[2]) % 256]) * 8388608
print("ready", flush=True)
for i in range(int(sys.argv[3])):
    write_artifact(Path(sys.argv[1]) / "a.fp32.onnx", payload, tiny.manifest())
    print(i, flush=True)
"""

TRAINING = """
import sys
from pathlib import Path
import torch
from imp_trt.train.run import Run, train_pair
from tests.train.boxes import CONFIG, RECIPE, Boxes
torch.set_num_threads(1)
recipe = RECIPE.with_iterations(30, 20)
run = Run(Boxes(), recipe, 0, Path(sys.argv[1]), quiet=True, save_every=4)
print("ready", flush=True)
train_pair(run, CONFIG)
"""

RECORDING = """
import sys, time
from pathlib import Path
import numpy as np
from imp_trt.video import run_pipeline
from imp_trt.video.sinks import JsonLines, OverlayVideo
from imp_trt.video.sources import Frame
from imp_trt.segmenter import Segmenter
folder = Path(sys.argv[1])
base = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
def frames():
    for i in range(int(sys.argv[3])):
        yield Frame(np.roll(base, i, 1), i, f"{i:06d}", i / 30)
with Segmenter(folder.parent / "model" / "tiny.fp32.onnx", threads=1) as segmenter:
    print("ready", flush=True)
    run_pipeline(
        segmenter,
        frames(),
        [OverlayVideo(folder / "drive.mp4", 30), JsonLines(folder / "drive.jsonl")],
        on_frame=lambda done, result: print(done, flush=True),
    )
"""


def _check_export(folder: Path, last: str) -> None:
    path = folder / "a.fp32.onnx"
    if path.exists() or last.isdecimal():
        found = read_artifact(path)
        assert len(found.payload) == PAYLOAD
        assert read_manifest(path) == found.manifest


def _check_training(folder: Path, last: str) -> None:
    for path in folder.glob("*.safetensors"):
        load_model(path)
    for path in folder.glob("*.resume.pt"):
        import torch

        identity = torch.load(path, weights_only=True)["identity"]
        assert read_state(path, identity) is not None


def _check_recording(folder: Path, last: str) -> None:
    done = int(last) if last.isdecimal() else 0
    if done:
        lines = (folder / "drive.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in lines] == list(range(len(lines)))
        # An earlier file is replaced after two seconds.
        assert len(lines) >= done or (folder / "earlier").exists(), f"{len(lines)} lines of {done}"
    if done > 2 * FPS:
        played = _count(folder / "drive.mp4")
        assert played >= done - 2 * FPS, f"{played} frames of {done}"


def _count(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    capture.release()
    return count


_STAGES = ("stage_one", "imp", "plain")
WORK = {
    "export": Work(EXPORT, 0.5, _check_export, frozenset({"a.fp32.onnx", "a.fp32.onnx.json"})),
    "training": Work(
        TRAINING,
        2.0,
        _check_training,
        frozenset({".lock", *(f"{s}.{e}" for s in _STAGES for e in ("safetensors", "jsonl"))}),
    ),
    "recording": Work(RECORDING, 4.0, _check_recording, frozenset({"drive.mp4", "drive.jsonl"})),
}


def soak(name: str, folder: Path, kills: int, seed: int) -> Outcome:
    """Do the work in a new folder and kill it, kills times; then do it once more."""
    work, rng, outcome = WORK[name], random.Random(seed), Outcome()
    home = folder / name
    home.mkdir(parents=True)
    if name == "recording":
        from tests.support import tiny

        (folder / "model").mkdir(exist_ok=True)
        tiny.artifact(folder / "model")
    for number in range(kills):
        if name == "recording":  # each recording is a new one
            for path in (home / "drive.mp4", home / "drive.jsonl"):
                path.unlink(missing_ok=True)
        last, killed = _run(work, home, number, 10**6, rng.uniform(0, work.longest_s))
        outcome.kills += killed
        try:
            work.check(home, last)
        except Exception as error:
            outcome.lost.append(f"kill {number} after {last!r}: {type(error).__name__}: {error}")
        litter = sum(path.stat().st_size for path in _litter(work, home, running=True))
        outcome.litter = max(outcome.litter, litter)
    _run(work, home, kills, 20, None)
    try:
        work.check(home, "")
    except Exception as error:
        outcome.lost.append(f"at the end: {type(error).__name__}: {error}")
    if name == "training":
        _compare_with_a_whole_run(work, folder, home, outcome)
    outcome.left = [path.name for path in _litter(work, home, running=False)]
    return outcome


def _compare_with_a_whole_run(work: Work, folder: Path, home: Path, outcome: Outcome) -> None:
    import torch

    whole = folder / "whole"
    whole.mkdir()
    _run(work, whole, 0, 20, None)
    for stage in _STAGES:
        one, other = (load_model(f / f"{stage}.safetensors")[0].state_dict() for f in (home, whole))
        if not all(torch.equal(one[key], other[key]) for key in one):
            outcome.lost.append(f"{stage} differs from that of a run without kills")


def _run(work: Work, folder: Path, number: int, count: int, kill_after_s: float | None) -> tuple[str, bool]:
    """Run the work; returns the last complete line that it printed, and whether it was killed at work."""
    command = [sys.executable, "-c", work.code, str(folder), str(number), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        if kill_after_s is not None:
            deadline = time.monotonic() + kill_after_s
            os.set_blocking(child.stdout.fileno(), False)
            lines = b""
            while time.monotonic() < deadline and child.poll() is None:
                lines += child.stdout.read() or b""
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.wait()
        else:
            lines = b""
        os.set_blocking(child.stdout.fileno(), True)
        lines += child.stdout.read()
    if kill_after_s is None and child.returncode:
        raise RuntimeError(f"the work failed with code {child.returncode}")
    complete = lines.decode().split("\n")[:-1]
    return (complete[-1] if complete else ""), child.returncode == -signal.SIGKILL


def _litter(work: Work, folder: Path, *, running: bool) -> list[Path]:
    """Files that are no output; while the work is not finished, neither are states of a training."""
    return [
        path
        for path in folder.iterdir()
        if path.name not in work.outputs and not (running and path.name.endswith(".resume.pt"))
    ]


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", nargs="*", choices=[*WORK, []], default=list(WORK))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    outcomes: dict[str, Outcome] = {}
    for name in options.work:
        with tempfile.TemporaryDirectory() as folder:
            outcomes[name] = outcome = soak(name, Path(folder), options.kills, options.seed)
        if not options.json:
            print(
                f"{name:<10} {outcome.kills} of {options.kills} killed at work, {len(outcome.lost)} losses, "
                f"at most {outcome.litter / 1e6:.1f} MB left behind, {len(outcome.left)} files at the end",
                flush=True,
            )
            for line in [*outcome.lost, *outcome.left]:
                print(f"           {line}")
    if options.json:
        print(json.dumps({name: asdict(outcome) for name, outcome in outcomes.items()}, indent=1))
    return 0 if all(outcome.passed for outcome in outcomes.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
