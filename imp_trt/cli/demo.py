"""imp-demo: export the bundled weights, verify the artifact, and segment a street video with it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from imp_trt.cli.common import Progress, command_parser, print_json, run_command, say

if TYPE_CHECKING:
    from imp_trt.result import SegmentationResult
    from imp_trt.video.pipeline import RunSummary
    from imp_trt.video.sources import Frame

EXAMPLES = """examples:
  imp-demo                       a clip of the procedural street
  imp-demo drive.mp4 -o out      your own video (the demo model was trained on drawn scenes alone)"""

CLIP_SEED = 7
CLIP_SECONDS = 8
CLIP_FPS = 15.0
SHEET_ROWS = 4


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = command_parser("imp-demo", __doc__ or "", EXAMPLES)
    parser.add_argument("source", nargs="?", metavar="VIDEO", help="your own video, image folder or pattern")
    parser.add_argument("-o", "--output", type=Path, default=Path("imp-demo"), help="folder (imp-demo)")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--threads", type=int, help="CPU threads of the network")
    options = parser.parse_args(argv)
    return run_command(lambda: _demo(options), verbose=options.verbose, quiet=options.quiet)


def _demo(options: argparse.Namespace) -> int:
    from imp_trt.export.pipeline import export_onnx
    from imp_trt.weights import bundled

    start = perf_counter()
    if not options.quiet:
        say("imp-demo: exporting and verifying the bundled weights")
    report = export_onnx(bundled(), options.output)
    video = options.output / "demo.mp4"
    sheet = options.output / "contact_sheet.png"
    summary = _segment(options, report.path, video, sheet)
    outputs = {
        "video": video,
        "contact_sheet": sheet,
        "artifact": report.path,
        "manifest": report.path.with_name(report.path.name + ".json"),
    }
    seconds = perf_counter() - start
    if options.json:
        data = {"outputs": {k: str(v) for k, v in outputs.items()}, "seconds": round(seconds, 1)}
        print_json({**data, **summary.to_dict()})
        return 0
    for name, path in outputs.items():
        print(f"{name:<14} {path}")
    speed = summary.timing_ms["total"]["p50"]
    print(f"{summary.frames} frames, {speed:.0f} ms each (median, network and resizing)")
    print(f"PASSED imp-demo {seconds:.1f}s")
    return 0


def _segment(options: argparse.Namespace, artifact: Path, video: Path, sheet: Path) -> RunSummary:
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.contact_sheet import ContactSheet
    from imp_trt.video.pipeline import run_pipeline
    from imp_trt.video.sinks import DrawOptions, OverlayVideo
    from imp_trt.video.sources import open_source

    with ExitStack() as stack:
        segmenter = stack.enter_context(Segmenter(artifact, threads=options.threads))
        frames: Iterable[Frame]
        fps: float | None
        total: int | None
        if options.source is None:
            total, fps = round(CLIP_SECONDS * CLIP_FPS), CLIP_FPS
            frames = _clip(total)
        else:
            source = stack.enter_context(open_source(options.source))
            frames, total, fps = source, source.frames, source.fps
        if options.max_frames:
            total = min(total or options.max_frames, options.max_frames)
        progress = Progress("imp-demo", total, quiet=options.quiet)

        def show(done: int, result: SegmentationResult) -> None:
            progress.update(done, f"{result.timing['total']:.0f} ms a frame")

        last = (total or SHEET_ROWS) - 1
        moments = [round(last * (row + 0.5) / SHEET_ROWS) for row in range(SHEET_ROWS)]
        summary = run_pipeline(
            segmenter,
            frames,
            [OverlayVideo(video, fps), ContactSheet(sheet, moments)],
            max_frames=options.max_frames,
            draw=DrawOptions(legend=True),
            on_frame=show,
        )
        progress.close()
    return summary


def _clip(frames: int) -> Iterator[Frame]:
    """The demo's own video, drawn while it is segmented."""
    from imp_trt.scenes import street_video
    from imp_trt.video.sources import Frame

    for index, sample in enumerate(street_video(CLIP_SEED, frames, fps=CLIP_FPS)):
        yield Frame(sample.image, index, f"{index:06d}", index / CLIP_FPS)
