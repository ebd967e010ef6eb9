"""imp-segment: segment an image, folder, pattern or video and write what was found."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imp_trt.backends import BACKEND_NAMES
from imp_trt.cli.common import Progress, command_parser, print_json, run_command
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.result import SegmentationResult
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.pipeline import RunSummary
    from imp_trt.video.sinks import Sink
    from imp_trt.video.sources import Source

_EXAMPLES = """\
examples:
  imp-segment street.mp4 overlay.mp4 -a street.fp32.onnx --headless
  imp-segment photo.jpg -a street.fp32.onnx --save-classes classes.png --save-json result.jsonl
  imp-segment 'run/*.png' overlays/ -a street.fp32.onnx
  imp-segment street.mp4 null: -a street.fp32.onnx --headless --json      (measure only)"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-segment", "Segment an image, folder, pattern or video with an exported model.", _EXAMPLES
    )
    p.add_argument("source", metavar="SOURCE", help="image, folder, quoted pattern, or video file")
    p.add_argument(
        "sink",
        metavar="SINK",
        nargs="?",
        help="overlay: video (.mp4 .mov .mkv .avi), image, folder, pattern (out/%%06d.png), or null:; "
        "default: SOURCE's name with _segmented, in the current folder, if nothing else is asked for",
    )
    p.add_argument(
        "-a",
        "--artifact",
        required=True,
        metavar="FILE",
        help=".onnx or .engine artifact, or .safetensors/.pt weights",
    )
    p.add_argument("--backend", choices=BACKEND_NAMES, help="default: by the artifact")
    p.add_argument("--threads", type=_count, metavar="N", help="CPU threads of the network")
    p.add_argument("--device", help="cpu or cuda; default: the best that the backend finds")
    p.add_argument("--max-frames", type=_count, metavar="N", help="stop after N frames")
    p.add_argument("--headless", action="store_true", help="open no window (implied without a display)")
    out = p.add_argument_group("output")
    out.add_argument("--save-overlay", metavar="PLACE", help="a second overlay; same places as SINK")
    out.add_argument(
        "--save-classes", metavar="PLACE", help="class maps: folder, pattern or .png; 8 bit, pixel = class"
    )
    out.add_argument("--save-json", metavar="FILE", help="one line of JSON per frame")
    out.add_argument(
        "--fps", type=_rate, help="frame rate of an overlay video (default: the source's, or 25)"
    )
    draw = p.add_argument_group("drawing")
    draw.add_argument("--alpha", type=_share, default=0.5, help="weight of the class colours (default 0.5)")
    draw.add_argument(
        "--min-score",
        type=_share,
        default=0.3,
        help="lowest score of instances listed and drawn (default 0.3)",
    )
    draw.add_argument("--no-labels", action="store_true", help="do not write names at instances")
    draw.add_argument("--legend", action="store_true", help="list the classes in the picture")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    return run_command(lambda: _run(args), verbose=args.verbose, quiet=args.quiet)


def _run(args: argparse.Namespace) -> int:
    # After set_up_logging: OpenCV reads its log level while it is imported.
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.sources import open_source

    with ExitStack() as stack:
        source = stack.enter_context(open_source(args.source))
        places = _places(args, source)
        _refuse_overwriting(args, source, places)
        segmenter = stack.enter_context(Segmenter(args.artifact, args.backend, args.threads, args.device))
        summary = _segment(args, source, segmenter, places)
        report = {
            "source": args.source,
            "artifact": args.artifact,
            "precision": segmenter.manifest.precision,
            **summary.to_dict(),
            "outputs": {name: place for name, place in places.items() if place != "null:"},
        }
    if args.json:
        print_json(report)
    else:
        _print_report(report)
    return 0


def _segment(
    args: argparse.Namespace, source: Source, segmenter: Segmenter, places: dict[str, str]
) -> RunSummary:
    from imp_trt.video.pipeline import run_pipeline
    from imp_trt.video.sinks import DrawOptions

    total = min(source.frames or args.max_frames or 0, args.max_frames or source.frames or 0) or None
    progress = Progress("imp-segment", total, quiet=args.quiet)

    def show(done: int, result: SegmentationResult) -> None:
        progress.update(done, f"{result.timing['total']:.0f} ms a frame")

    draw = DrawOptions(args.alpha, args.min_score, not args.no_labels, args.legend)
    with ExitStack() as opened:
        sinks: list[Sink] = []
        for make in _sinks(args, source, places):
            # Entered one by one: if the third cannot be opened, the first two leave nothing.
            sinks.append(opened.enter_context(make()))
        opened.callback(progress.close)
        return run_pipeline(segmenter, source, sinks, max_frames=args.max_frames, draw=draw, on_frame=show)


def _places(args: argparse.Namespace, source: Source) -> dict[str, str]:
    """Output -> where it goes."""
    asked = {
        "overlay": args.sink,
        "overlay 2": args.save_overlay,
        "classes": args.save_classes,
        "json": args.save_json,
    }
    places = {name: place for name, place in asked.items() if place}
    if not places and not _shows_window(args):
        places["overlay"] = _default_place(args.source, source)
    return places


def _default_place(spec: str, source: Source) -> str:
    path = Path(spec)
    if path.is_file():
        return f"{path.stem}_segmented{'.png' if source.fps is None and source.frames == 1 else '.mp4'}"
    return f"{path.resolve().name}_segmented" if path.is_dir() else "segmented"


def _sinks(args: argparse.Namespace, source: Source, places: dict[str, str]) -> list[Callable[[], Sink]]:
    from imp_trt.video import sinks

    fps = args.fps or source.fps
    makers: list[Callable[[], Sink]] = []
    for name, place in places.items():
        if name == "classes":
            makers.append(partial(sinks.ClassMaps, place))
        elif name == "json":
            makers.append(partial(sinks.JsonLines, place, args.min_score))
        else:
            makers.append(partial(sinks.overlay_sink, place, fps))
    if _shows_window(args):
        makers.append(sinks.Window)
    return makers


def _shows_window(args: argparse.Namespace) -> bool:
    # Qt ends the process where there is no display, so OpenCV is not even asked.
    return not args.headless and bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _refuse_overwriting(args: argparse.Namespace, source: Source, places: dict[str, str]) -> None:
    """No output may replace a frame, the model, or another output."""
    from imp_trt.artifact import manifest_path
    from imp_trt.images import IMAGE_SUFFIXES

    inputs = {path.resolve() for path in source.paths}
    # Pictures in a folder or by a pattern get names that nobody chose: they stay out of the frames' folders.
    folders = {path.parent for path in inputs if path.suffix.lower() in IMAGE_SUFFIXES}
    model = {Path(args.artifact).resolve(), manifest_path(args.artifact).resolve()}
    written = {name: place for name, place in places.items() if place != "null:"}
    for place in written.values():
        target = Path(place).resolve()
        if target in folders or ("%" in place and target.parent in folders) or _spells(target, inputs):
            raise UsageError("the output would replace the source", got=place, fix="name another place")
        if _spells(target, model):
            raise UsageError("the output would replace the model", got=place, fix="name another place")
    for one, other in combinations(written.items(), 2):
        same = Path(one[1]).resolve() == Path(other[1]).resolve()
        if same or _may_meet(_names(*one), _names(*other)):
            raise UsageError(
                "two outputs go to one place",
                got=f"{one[1]}, {other[1]}",
                fix="name two folders, or two files",
            )


def _spells(target: Path, files: set[Path]) -> bool:
    """Whether a place is one of the files, or a pattern such as ``out/%06d.png`` that becomes one."""
    names = re.compile(re.sub(r"%0?\d*d", r"\\d+", re.escape(str(target))))
    return target in files or any(names.fullmatch(str(file)) for file in files)


def _names(output: str, place: str) -> tuple[Path, str, str]:
    """What an output's files have in common: their folder, and how their names begin and end."""
    from imp_trt.images import IMAGE_SUFFIXES
    from imp_trt.video.writer import VIDEO_CODECS

    target = Path(place).resolve()
    if "%" in place:
        return target.parent, target.name.partition("%")[0], re.split(r"%0?\d*d", target.name)[-1]
    files = IMAGE_SUFFIXES if output == "classes" else (*IMAGE_SUFFIXES, *VIDEO_CODECS)
    if output == "json" or target.suffix.lower() in files:
        return target.parent, target.name, target.name
    return target, "", ".png"


def _may_meet(one: tuple[Path, str, str], other: tuple[Path, str, str]) -> bool:
    (folder, begin, end), (folder2, begin2, end2) = one, other
    begins = begin.startswith(begin2) or begin2.startswith(begin)
    return folder == folder2 and begins and (end.endswith(end2) or end2.endswith(end))


def _print_report(report: dict[str, Any]) -> None:
    timing = report["timing_ms"]
    height, width = report["network_size"]
    print(
        f"frames     {report['frames']} in {report['seconds']:.1f} s ({report['frames_per_second']:.1f}/s), "
        f"network {width}x{height} {report['precision']}"
    )
    if timing:
        means = "  ".join(f"{name} {values['mean']:.1f}" for name, values in timing.items())
        total = timing["total"]
        print(
            f"time       {means} ms (mean); p50 {total['p50']:.1f}, p99 {total['p99']:.1f} ms for pre to post"
        )
    shares = sorted(report["pixels"].items(), key=lambda item: -item[1])
    if shares:
        print("pixels     " + ", ".join(f"{name} {share:.1%}" for name, share in shares))
    if report["instances"]:
        print("instances  " + ", ".join(f"{name} {n}" for name, n in report["instances"].items()))
    for name, place in report["outputs"].items():
        print(f"{name:<10} {place}")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _rate(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 < value <= 1000):
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1000")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
