# SPDX-License-Identifier: Apache-2.0
"""imp-bench: measure latency per stage and throughput of a model on this machine."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imp_trt.backends import BACKEND_NAMES
from imp_trt.cli.common import (
    Progress,
    add_deprecated,
    command_parser,
    positive,
    run_command,
    seconds,
    threads,
)
from imp_trt.cli.outputs import attempt_all
from imp_trt.cli.printing import print_json, print_lines, say
from imp_trt.cli.temporal_options import add_temporal, temporal_of
from imp_trt.cli.unused_options import warn_of_unused
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.benchmark.report import Report
    from imp_trt.benchmark.run import Settings

EXAMPLES = """\
examples:
  imp-bench street.fp32.onnx                                    (synthetic streets of 1280x720)
  imp-bench street.fp32.onnx --source drive.mp4 --threads 2 --json
  imp-bench street.fp16.engine --assert 'p99<30ms' --assert 'infer.p50<10ms' --assert 'fps>25'
  imp-bench street.onnx --source drive.mp4 --detect-every 4     (artifact of imp-export --parts)
  imp-bench street.fp32.onnx --compare pytorch --compare maskrcnn

Latency is measured on frames that are decoded and processed one at a time, without the first call and the
warm-up. Throughput is that of the pipeline of imp-segment, in which the stages of several frames overlap.
Comparisons verify the outputs first and then time both models alternately.

stages ("-" if a backend does not have one):"""

_DEFAULT_SECONDS = 3.0
_DEFAULT_PERCENTILES = "50,90,95,99,99.9"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    from imp_trt.benchmark.gates import BASELINES
    from imp_trt.benchmark.samples import STAGES, TEMPORAL_STAGES

    described = {**STAGES, **{name: f"{text} (--detect-every)" for name, text in TEMPORAL_STAGES.items()}}
    stages = "\n".join(f"  {name:<12}{text}" for name, text in described.items())

    p = command_parser(
        "imp-bench",
        "Measure latency percentiles per stage and throughput of a model on this machine.",
        f"{EXAMPLES}\n{stages}",
    )
    p.add_argument("artifact", type=Path, metavar="ARTIFACT", help=".onnx, .engine, .safetensors or .pt")
    p.add_argument("--backend", choices=BACKEND_NAMES, help="inference backend (default: by file type)")
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="CPU threads of the network (default: one per physical core; with OpenVINO, one per CPU)",
    )
    p.add_argument(
        "--device",
        help="cpu or cuda (default: cpu for .onnx files; for weights cuda, if PyTorch finds a GPU)",
    )
    _add_frames(p.add_argument_group("input frames"))
    _add_results(p.add_argument_group("results"))
    add_temporal(p.add_argument_group("video with a detector that runs on some frames"))
    _add_baselines(p, BASELINES)
    return p


def _add_frames(frames: argparse._ArgumentGroup) -> None:
    frames.add_argument(
        "--source", help="image, folder, quoted pattern or video (default: synthetic streets)"
    )
    frames.add_argument("--frame-size", metavar="HxW", help="size of synthetic streets (default: 720x1280)")
    frames.add_argument(
        "--warmup",
        default="200ms",
        metavar="TIME|N",
        help="warm-up time or number of frames (default: 200ms)",
    )
    frames.add_argument(
        "--duration",
        type=partial(seconds, unit="s"),
        default=_DEFAULT_SECONDS,
        metavar="TIME",
        help="duration of the measurement, and of each comparison; at least 10 frames, and as many as "
        "--assert needs (default: 3s)",
    )
    frames.add_argument(
        "--frames", type=positive, metavar="N", help="measure exactly N frames instead (not in comparisons)"
    )


def _add_results(out: argparse._ArgumentGroup) -> None:
    from imp_trt.benchmark.gates import GRAMMAR

    out.add_argument(
        "--percentiles",
        default=_DEFAULT_PERCENTILES,
        metavar="P,P",
        help=f"percentiles to report (default: {_DEFAULT_PERCENTILES}); '-' if there are too few frames",
    )
    out.add_argument(
        "--assert",
        dest="gates",
        action="append",
        default=[],
        metavar="GATE",
        help=f"exit with code 6 if the condition is not met; can be repeated. {GRAMMAR}",
    )
    out.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="write the JSON report to a file")
    out.add_argument(
        "--export-times", type=Path, metavar="FILE.json", help="write the stage times of each frame to a file"
    )
    out.add_argument("--record", action="store_true", help="write the results into the artifact's manifest")


def _add_baselines(p: argparse.ArgumentParser, names: tuple[str, ...]) -> None:
    from imp_trt.benchmark.gates import baseline_name

    baselines = p.add_argument_group("comparison")
    baselines.add_argument(
        "--compare",
        action="append",
        default=[],
        type=baseline_name,
        choices=names,
        help="compare with a baseline; can be repeated. pytorch: the same weights in eager PyTorch; "
        "maskrcnn: torchvision's Mask R-CNN in ONNX Runtime",
    )
    baselines.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="with --compare pytorch: the artifact's checkpoint (default: the bundled one)",
    )
    work_dir = baselines.add_argument(
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="with --compare maskrcnn: folder to keep the exported network in (default: a temporary folder)",
    )
    add_deprecated(baselines, "--work", work_dir)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 6 if a gate is missed."""
    options = parser().parse_args(argv)
    return run_command(lambda: _run(options), verbose=options.verbose, quiet=options.quiet)


def _run(options: argparse.Namespace) -> int:
    from imp_trt.benchmark.gates import enforce
    from imp_trt.benchmark.run import run_benchmark

    settings = _settings(options)
    _check_options(options)
    if options.frames is not None and not options.compare and options.duration != _DEFAULT_SECONDS:
        warn_of_unused(["--duration"], "--frames says how many frames are measured")
    with ExitStack() as stack:
        report = run_benchmark(settings, _ProgressBars(stack, options.quiet))
    data = report.to_dict()
    attempt_all(
        partial(_write_report, options, data),
        partial(_write_times, options, report, data),
        partial(_record, options, data),
        partial(_print, options, report, data),
    )
    enforce(report.verdicts)
    return 0


class _ProgressBars:
    """One progress line per part of the measurement."""

    def __init__(self, stack: ExitStack, quiet: bool) -> None:
        self._stack = stack
        self._quiet = quiet
        self._bar: Progress | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what != self._what or self._bar is None:
            self.close()
            self._what, self._bar = what, Progress(f"imp-bench: {what}", total, quiet=self._quiet)
            self._stack.callback(self._bar.close)
        self._bar.update(done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _settings(options: argparse.Namespace) -> Settings:
    from imp_trt.benchmark.frames import parse_size
    from imp_trt.benchmark.gates import parse_gate
    from imp_trt.benchmark.measure import parse_warmup
    from imp_trt.benchmark.run import Settings
    from imp_trt.benchmark.samples import parse_percentiles

    return Settings(
        path=options.artifact,
        backend=options.backend,
        threads=options.threads,
        device=options.device,
        source=options.source,
        frame_size=parse_size(options.frame_size) if options.frame_size else None,
        warmup=parse_warmup(options.warmup),
        seconds=options.duration,
        frames=options.frames,
        percentiles=parse_percentiles(options.percentiles),
        gates=tuple(parse_gate(text) for text in options.gates),
        baselines=tuple(dict.fromkeys(options.compare)),
        weights=options.weights,
        work_dir=options.work_dir,
        temporal=temporal_of(options),
    )


def _check_options(options: argparse.Namespace) -> None:
    """Reject options without effect, and outputs that would overwrite an input, before measuring."""
    from imp_trt.artifacts.artifact import manifest_path
    from imp_trt.data.files import resolved

    for name, value, baseline in (
        ("--weights", options.weights, "pytorch"),
        ("--work-dir", options.work_dir, "maskrcnn"),
    ):
        if value is not None and baseline not in options.compare:
            raise UsageError(name, expected=f"--compare {baseline} with it", fix="leave it out, or add that")
    paths = [options.artifact, manifest_path(options.artifact), options.weights, options.source]
    inputs = {resolved(path) for path in paths if path is not None}
    for name, path in (("-o", options.output), ("--export-times", options.export_times)):
        if path is None:
            continue
        if path.suffix.lower() != ".json":
            raise UsageError(name, expected="a file that ends in .json", got=str(path))
        if resolved(path) in inputs:
            raise UsageError(name, expected="a new file", got=f"{path}, which is an input")
    if options.output and options.export_times and resolved(options.output) == resolved(options.export_times):
        raise UsageError("-o and --export-times", expected="different files", got=str(options.output))
    if options.record and options.artifact.suffix.lower() not in (".onnx", ".engine"):
        raise UsageError("--record", expected="an artifact with a manifest", got=str(options.artifact))


def _write_report(options: argparse.Namespace, data: dict[str, object]) -> None:
    from imp_trt.data.files import write_atomically

    if options.output is not None:
        write_atomically(options.output, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def _write_times(options: argparse.Namespace, report: Report, data: dict[str, object]) -> None:
    from imp_trt.data.files import write_atomically

    if options.export_times is not None:
        rows = [{k: round(v, 4) for k, v in row.items()} for row in report.latency.samples.rows]
        times = {"unit": "ms", "model": data["model"], "warm_up": data["warm_up"], "frames": rows}
        write_atomically(options.export_times, (json.dumps(times, allow_nan=False) + "\n").encode())


def _record(options: argparse.Namespace, data: dict[str, object]) -> None:
    from imp_trt.benchmark.run import record

    if options.record:
        say(f"recorded in {record(options.artifact, data)}")


def _print(options: argparse.Namespace, report: Report, data: dict[str, object]) -> None:
    if options.json:
        print_json(data)
    else:
        print_lines(report.text())


if __name__ == "__main__":
    raise SystemExit(main())
