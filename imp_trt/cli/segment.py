# SPDX-License-Identifier: Apache-2.0
"""imp-segment: segment files, cameras and streams, and display or write the results."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from imp_trt.cli.interrupts import EXIT_INTERRUPTED
from imp_trt.cli.outputs import (
    is_stdout,
    is_video,
    min_score,
    places,
    reject_overwriting,
    reported,
    shows_window,
    sink_makers,
)
from imp_trt.cli.printing import print_json, say
from imp_trt.cli.segment_report import COUNTED, print_report
from imp_trt.cli.temporal_options import add_temporal, temporal_of
from imp_trt.cli.unused_options import (
    warn_of_unused,
    warn_of_unused_drawing_options,
    warn_of_unused_source_options,
)
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.pipeline import RunSummary
    from imp_trt.video.sinks import FrameResults, Sink
    from imp_trt.video.sources import Source
    from imp_trt.video.statistics import Snapshot

_EXAMPLES = """\
examples:
  imp-segment street.mp4 overlay.mp4 -a street.fp32.onnx --headless
  imp-segment photo.jpg -a street.fp32.onnx --save-classes classes.png --save-json result.jsonl
  imp-segment 'run/*.png' overlays/ -a street.fp32.onnx
  imp-segment street.mp4 null: -a street.fp32.onnx --headless --json      (no output, measure only)
  imp-segment 0 -a street.fp32.onnx --serve 8080 --deadline 50ms          (camera, view in the browser)
  imp-segment street.mp4 overlay.mp4 -a street.onnx --detect-every 4      (artifact of imp-export --parts)
  imp-segment rtsp://host/front drive.mp4 -a street.fp32.onnx             (stream, until Ctrl-C)"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-segment", "Segment images, videos, cameras and streams with an exported model.", _EXAMPLES
    )
    p.add_argument(
        "source",
        metavar="SOURCE",
        help="image, folder, quoted pattern, video file, camera (0, /dev/video0, csi://0) or stream "
        "(rtsp://, http://). Outputs are kept after Ctrl-C, and after a failure such as a disconnected "
        "camera (--reconnect-timeout)",
    )
    p.add_argument(
        "sink",
        metavar="SINK",
        nargs="?",
        help="overlay output: video (.mp4 .mov .mkv .avi), image, folder, pattern (out/%%06d.png), or null: "
        "(default without other outputs: SOURCE's name with _segmented, in the current folder). Existing "
        "files are replaced",
    )
    p.add_argument(
        "-a",
        "--artifact",
        required=True,
        metavar="FILE",
        help=".onnx or .engine artifact, or .safetensors/.pt weights",
    )
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
    p.add_argument("--max-frames", type=positive, metavar="N", help="stop after N frames")
    p.add_argument(
        "--add-source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="additional source, can be repeated; outputs are written per source and named after it",
    )
    p.add_argument(
        "--strict",
        action="store_true",
        help="stop at an image of a folder or pattern that cannot be read (default: skip and list it)",
    )
    p.add_argument("--headless", action="store_true", help="open no window (default without a display)")
    _add_outputs(p.add_argument_group("output"))
    _add_live(p.add_argument_group("live video"))
    add_temporal(p.add_argument_group("video with a detector that runs on some frames"))
    _add_drawing(p.add_argument_group("drawing"))
    return p


def _add_outputs(out: argparse._ArgumentGroup) -> None:
    out.add_argument("--save-overlay", metavar="PATH", help="second overlay output, see SINK")
    out.add_argument(
        "--save-classes",
        metavar="PATH",
        help="class maps (8-bit class indices): folder, pattern or .png",
    )
    out.add_argument(
        "--save-panoptic", metavar="DIR", help="panoptic PNGs and panoptic.json in COCO's panoptic format"
    )
    out.add_argument(
        "--save-json",
        metavar="FILE",
        help="JSON Lines, one line per frame, written immediately; to a pipe or /dev/stdout too (the report "
        "is then printed on stderr)",
    )
    out.add_argument(
        "--fps", type=_rate, help="frame rate of overlay videos (default: that of each source, or 25)"
    )


def _add_live(live: argparse._ArgumentGroup) -> None:
    live.add_argument(
        "--policy",
        choices=("wait", "drop-oldest", "drop-newest"),
        help="action when the frame queue is full (default: wait for files and paced streams, drop-oldest "
        "for cameras and other streams)",
    )
    live.add_argument(
        "--queue-size", type=positive, default=2, metavar="N", help="size of the frame queue (default: 2)"
    )
    live.add_argument(
        "--deadline",
        type=partial(seconds, unit="ms"),
        metavar="TIME",
        help="maximum age of results, such as 50ms; later results are counted as deadline misses",
    )
    reconnect_timeout = live.add_argument(
        "--reconnect-timeout",
        type=_timeout,
        default=300.0,  # RECONNECT_TIMEOUT_S of the sources, whose import would load OpenCV
        metavar="TIME",
        help="fail if a camera or stream delivers no frame for this time, such as 30s, or never (default: "
        "300s)",
    )
    add_deprecated(live, "--give-up", reconnect_timeout)
    live.add_argument(
        "--read-timeout",
        type=partial(seconds, unit="s"),
        default=5.0,  # READ_TIMEOUT_S of the sources
        metavar="TIME",
        help="reconnect a stream that sends no frame for this time; more for streams with a frame every few "
        "seconds (default: 5s)",
    )
    live.add_argument(
        "--paced",
        action=argparse.BooleanOptionalAction,
        help="read a stream at its own pace and keep its own times, as needed where frames arrive in bursts "
        "(default: for HLS and DASH, .m3u8 and .mpd)",
    )
    live.add_argument(
        "--serve",
        type=_port,
        metavar="PORT",
        help="serve a live view at http://127.0.0.1:PORT/ (0: any free port)",
    )
    live.add_argument(
        "--serve-host",
        metavar="HOST",
        help="address to serve on (default: 127.0.0.1); others are visible on the network, without password "
        "and encryption",
    )


def _add_drawing(draw: argparse._ArgumentGroup) -> None:
    draw.add_argument(
        "--style",
        choices=("instances", "classes", "panoptic"),
        default="instances",
        help="filled instances over faint class colors, the class map alone, or panoptic segments (default: "
        "instances)",
    )
    draw.add_argument(
        "--alpha",
        type=_fraction,
        help="opacity of the class colors (default: 0.25 for the style instances, else 0.5)",
    )
    draw.add_argument(
        "--min-score",
        type=_fraction,
        help="minimum score of reported, drawn and panoptic instances (default: 0.3; --save-panoptic: 0.5)",
    )
    draw.add_argument("--no-labels", action="store_true", help="do not draw the labels of instances")
    draw.add_argument("--legend", action="store_true", help="draw a legend of the classes")
    draw.add_argument(
        "--track",
        action="store_true",
        help="number the instances over the frames, in overlays and --save-json",
    )


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # Allow SINK after options.
    args = parser().parse_intermixed_args(argv)
    return run_command(lambda: _run(args), verbose=args.verbose, quiet=args.quiet)


def _run(args: argparse.Namespace) -> int:
    # Imported after set_up_logging, because OpenCV reads its log level on import.
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.sinks import FrameResults
    from imp_trt.video.source_names import short_names
    from imp_trt.video.sources import open_source, redacted

    if args.serve_host is not None and args.serve is None:
        raise UsageError("--serve-host", expected="--serve PORT with it")
    temporal = temporal_of(args)
    with ExitStack() as stack:
        specs = [args.source, *args.add_source]
        options: dict[str, Any] = {
            "reconnect_timeout_s": args.reconnect_timeout,
            "read_timeout_s": args.read_timeout,
            "paced": args.paced,
            "strict": args.strict,
        }
        sources = [stack.enter_context(open_source(spec, **options)) for spec in specs]
        outputs = places(args, sources)
        stdout_taken = is_stdout(outputs.get("json", ""))
        if stdout_taken and args.json:
            raise UsageError("--json and --save-json on stdout", expected="only one of them")
        reject_overwriting(args.artifact, sources, short_names(sources), outputs)
        warn_of_unused_source_options(args, parser(), sources, any(map(is_video, outputs.values())))
        segmenter = stack.enter_context(Segmenter(args.artifact, args.backend, args.threads, args.device))
        _warn_of_unused(args, segmenter, outputs)
        if temporal is not None:
            segmenter.open_canvas()  # before an output is opened
        results = FrameResults(min_score(args)) if args.json else None
        summary, interrupted = _segment(args, sources, segmenter, outputs, results)
        report = {
            "source": redacted(args.source),
            "artifact": args.artifact,
            "precision": segmenter.manifest.precision,
            "deadline_ms": args.deadline and round(args.deadline * 1e3, 3),
            **summary.to_dict(),
            **(results.to_dict() if results is not None else {}),
            "outputs": reported(outputs, len(sources) > 1),
        }
    if args.json:
        print_json(report)
    elif not (stdout_taken and args.quiet):
        with redirect_stdout(sys.stderr if stdout_taken else sys.stdout):
            print_report(report)
    if not interrupted or (summary.frames and any(source.live for source in sources)):
        return 0  # Ctrl-C is the regular end of a recording from a camera
    say(f"interrupted after {summary.frames} frames" + (", which are kept" if summary.frames else ""))
    return EXIT_INTERRUPTED


def _warn_of_unused(args: argparse.Namespace, segmenter: Segmenter, outputs: dict[str, str]) -> None:
    manifest = segmenter.manifest
    overlays = (place for name, place in outputs.items() if name.startswith("overlay"))
    warn_of_unused_drawing_options(
        args,
        parser(),
        draws=args.serve is not None or shows_window(args) or any(place != "null:" for place in overlays),
        detects=manifest.detections > 0,
    )
    reason = None if args.min_score is None else manifest.without_effect(args.min_score)
    if reason is not None:
        warn_of_unused(["--min-score"], reason)


def _segment(
    args: argparse.Namespace,
    sources: list[Source],
    segmenter: Segmenter,
    outputs: dict[str, str],
    results: FrameResults | None,
) -> tuple[RunSummary, bool]:
    """Run the pipeline; returns its summary and whether Ctrl-C or SIGTERM ended it."""
    from imp_trt.video.interrupts import stop_on_interrupt
    from imp_trt.video.pipeline import run_pipeline
    from imp_trt.video.sinks import DrawOptions

    frames = [source.frames for source in sources]
    known = None if None in frames else sum(n or 0 for n in frames)
    total = min(known or args.max_frames or 0, args.max_frames or known or 0) or None
    progress = Progress("imp-segment", total, quiet=args.quiet)

    def show(snapshot: Snapshot) -> bool:
        progress.update(snapshot["delivered"], progress_note(snapshot))
        return not stopped.is_set()

    with ExitStack() as opened:
        sinks: list[Sink] = []
        for make in (*sink_makers(args, sources, outputs), *_view_makers(args, sources, segmenter)):
            # Entered one by one: if one cannot be opened, those before it are aborted.
            sinks.append(opened.enter_context(make()))
        if results is not None:
            sinks.append(results)
        opened.pop_all()  # from here on, run_pipeline closes them
    with ExitStack() as stack:
        stopped = stack.enter_context(stop_on_interrupt())
        stack.callback(progress.close)
        summary = run_pipeline(
            segmenter,
            sources if len(sources) > 1 else sources[0],
            sinks,
            max_frames=args.max_frames,
            draw=DrawOptions(args.alpha, min_score(args), not args.no_labels, args.legend, args.style),
            track=args.track,
            temporal=temporal_of(args),
            policy=args.policy,
            queue_size=args.queue_size,
            deadline_s=args.deadline,
            on_progress=show,
        )
    return summary, stopped.is_set()


def _view_makers(
    args: argparse.Namespace, sources: list[Source], segmenter: Segmenter
) -> list[Callable[[], Sink]]:
    if args.serve is None:
        return []

    def make() -> Sink:
        from imp_trt.video.serve import BrowserView

        names = ", ".join(Path(source.name).name if source.paths else source.name for source in sources)
        view = BrowserView(
            args.serve,
            args.serve_host or "127.0.0.1",
            classes=segmenter.classes,
            title=f"{names}, {Path(args.artifact).name}",
        )
        if not args.quiet:
            say(f"live view: {view.url}")
        return view

    return [make]


def progress_note(snapshot: Snapshot) -> str:
    """Return the text of the progress line for a snapshot."""
    parts: list[str] = []
    if "total" in snapshot["timing_ms"]:
        parts.append(f"{snapshot['timing_ms']['total']['last']:.0f} ms/frame")
    if snapshot["age_ms"] and any(source["live"] for source in snapshot["sources"]):
        parts.append(f"age {snapshot['age_ms']['last']:.0f} ms")
    counts = (snapshot["dropped"], snapshot["deadline_misses"], snapshot["reconnects"])
    for count, text in zip(counts, COUNTED.values(), strict=True):
        if count:
            parts.append(f"{count} {text}")
    return ", ".join(parts)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 < value <= 1000):
        raise argparse.ArgumentTypeError(f"{text} is not a frame rate above 0 and at most 1000")
    return value


def _timeout(text: str) -> float:
    return math.inf if text == "never" else seconds(text, unit="s")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port number from 0 to 65535")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
