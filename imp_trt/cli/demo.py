# SPDX-License-Identifier: Apache-2.0
"""imp-demo: export the bundled weights, verify the artifact, and segment a street video with it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from imp_trt.cli.common import Progress, command_parser, positive, run_command, stage_progress, threads
from imp_trt.cli.outputs import reject_input
from imp_trt.cli.printing import print_json, print_line, say
from imp_trt.errors import UsageError

if TYPE_CHECKING:
    from imp_trt.results.result import SegmentationResult
    from imp_trt.video.pipeline import RunSummary
    from imp_trt.video.sources import Frame

EXAMPLES = """examples:
  imp-demo                       (synthetic street video)
  imp-demo drive.mp4 -o out      (your own video; the demo model was trained on synthetic scenes only)"""

DRAWN_STREETS = (
    "the bundled weights were trained on synthetic street scenes and fail on photographs; for streets take "
    "samples/weights/camvid_imp.safetensors of the repository, for other videos your own: "
    "imp-export --weights FILE.safetensors -o out --target onnxruntime, then "
    "imp-segment VIDEO -a out/FILE.fp32.onnx"
)

CLIP_SEED = 7
CLIP_SECONDS = 8
CLIP_FPS = 15.0
GRID_ROWS = 4


_VIDEO, _GRID = "demo.mp4", "contact_sheet.png"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parser().parse_args(argv)
    return run_command(lambda: _demo(options), verbose=options.verbose, quiet=options.quiet)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = command_parser(
        "imp-demo",
        "Export the bundled weights, verify the artifact, and segment a street video with it.",
        EXAMPLES,
    )
    p.add_argument(
        "source",
        nargs="?",
        metavar="VIDEO",
        help="video, image folder or pattern (default: synthetic street video)",
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("imp-demo"),
        metavar="DIR",
        help="output folder (default: imp-demo)",
    )
    p.add_argument("--max-frames", type=positive, metavar="N", help="stop after N frames")
    p.add_argument(
        "--threads",
        type=threads,
        metavar="N",
        help="CPU threads of the network (default: one per physical core)",
    )
    return p


def _demo(options: argparse.Namespace) -> int:
    from imp_trt.export.pipeline import export_onnx
    from imp_trt.weights import bundled

    start = perf_counter()
    if options.source is not None:
        say(f"warning: {DRAWN_STREETS}")
    with ExitStack() as stack:
        # Opened before the export, so that an invalid path fails immediately.
        clip = _open(options, stack)
        report = export_onnx(bundled(), options.output, progress=stage_progress("imp-demo", options.quiet))
        outputs = {
            "video": options.output / _VIDEO,
            "contact_sheet": options.output / _GRID,
            "artifact": report.path,
            "manifest": report.path.with_name(report.path.name + ".json"),
        }
        summary = _segment(options, clip, report.path, outputs["video"], outputs["contact_sheet"])
    seconds = perf_counter() - start
    if options.json:
        places = {name: str(path) for name, path in outputs.items()}
        print_json({"outputs": places, **summary.to_dict(), "seconds": round(seconds, 1)})
        return 0
    for name, path in outputs.items():
        print_line(f"{name:<14} {path}")
    speed = summary.timing_ms["total"]["p50"]
    print_line(f"{summary.frames} frames, {speed:.0f} ms each (median, network and resizing)")
    if options.source is not None:
        print_line(f"note           {DRAWN_STREETS}")
    print_line(f"PASSED imp-demo {seconds:.1f}s")
    return 0


@dataclass(frozen=True)
class _Clip:
    frames: Iterable[Frame]
    count: int | None
    fps: float | None


def _open(options: argparse.Namespace, stack: ExitStack) -> _Clip:
    from imp_trt.video.sources import open_source

    if options.source is None:
        count = round(CLIP_SECONDS * CLIP_FPS)
        clip = _Clip(_street(count), count, CLIP_FPS)
    else:
        source = stack.enter_context(open_source(options.source))
        for name in (_VIDEO, _GRID):
            reject_input("-o", options.output / name, source.paths)
        clip = _Clip(source, source.frames, source.fps)
    if options.max_frames:
        clip = replace(clip, count=min(clip.count or options.max_frames, options.max_frames))
    return clip


def _segment(options: argparse.Namespace, clip: _Clip, artifact: Path, video: Path, grid: Path) -> RunSummary:
    from imp_trt.segmenter import Segmenter
    from imp_trt.video.contact_sheet import ContactSheet
    from imp_trt.video.pipeline import run_pipeline
    from imp_trt.video.sinks import DrawOptions, OverlayVideo

    progress = Progress("imp-demo: segment", clip.count, quiet=options.quiet)

    def show(done: int, result: SegmentationResult) -> None:
        progress.update(done, f"{result.timing['total']:.0f} ms/frame")

    indices = [int((clip.count or GRID_ROWS) * (row + 0.5) / GRID_ROWS) for row in range(GRID_ROWS)]
    with Segmenter(artifact, threads=options.threads) as segmenter:
        summary = run_pipeline(
            segmenter,
            _of_one_size(clip.frames, artifact),
            [OverlayVideo(video, clip.fps), ContactSheet(grid, indices)],
            max_frames=options.max_frames,
            draw=DrawOptions(),
            on_frame=show,
        )
    progress.close()
    return summary


def _of_one_size(frames: Iterable[Frame], artifact: Path) -> Iterator[Frame]:
    """The frames; UsageError if images have different sizes, with a command that takes them."""
    first: tuple[int, ...] | None = None
    for frame in frames:
        size = frame.image.shape[:2]
        first = first or size
        if size != first and frame.time_s is None:
            raise UsageError(
                f"image {frame.name}",
                expected=f"{first[1]}x{first[0]}, as the first image, for one video",
                got=f"{size[1]}x{size[0]}",
                fix=f"imp-segment IMAGES overlays/ -a {shlex.quote(str(artifact))} writes images of any size",
            )
        yield frame


def _street(frames: int) -> Iterator[Frame]:
    """Synthetic street video, rendered while it is segmented."""
    from imp_trt.synthetic import street_video
    from imp_trt.video.sources import Frame

    for index, sample in enumerate(street_video(CLIP_SEED, frames, fps=CLIP_FPS)):
        yield Frame(sample.image, index, f"{index:06d}", index / CLIP_FPS)


if __name__ == "__main__":
    raise SystemExit(main())
