# SPDX-License-Identifier: Apache-2.0
"""Segment a video and write an overlay video and one line of JSON per frame.

python samples/video_file/segment_video.py street.fp32.onnx drive.mp4 -o results
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from imp_trt import ImpTrtError, Segmenter
from imp_trt.video import DrawOptions, RunSummary, Snapshot, open_source, overlay_sink, run_pipeline
from imp_trt.video.sinks import JsonLines


def segment(artifact: str, video: str, folder: Path) -> RunSummary:
    """Write <video>.overlay.mp4 and <video>.jsonl to a folder.

    Both grow while the video is segmented, and hold every finished frame however the run ends.

    Raises:
        ImpTrtError: the network or the video cannot be opened, or the results cannot be written.
    """
    stem = Path(video).stem
    with Segmenter(artifact) as segmenter, open_source(video) as source:

        def show(state: Snapshot) -> None:
            done, speed = state["delivered"], state["frames_per_second"]
            print(f"\r{done}/{source.frames or '?'} frames, {speed:.1f}/s ", end="", file=sys.stderr)

        sinks = [
            overlay_sink(folder / f"{stem}.overlay.mp4", source.fps),
            JsonLines(folder / f"{stem}.jsonl"),
        ]
        # Reading, the network, drawing and writing overlap; every frame of a file is segmented.
        summary = run_pipeline(segmenter, source, sinks, draw=DrawOptions(legend=True), on_progress=show)
    print(file=sys.stderr)
    return summary


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", help="an engine for this GPU, or an .onnx file")
    parser.add_argument("video")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(), help="output folder (default: current folder)"
    )
    options = parser.parse_args(arguments)
    try:
        summary = segment(options.artifact, options.video, options.output)
    except ImpTrtError as error:
        print(error, file=sys.stderr)  # the message contains expected and actual values, and a fix
        return error.exit_code
    print(f"{summary.frames} frames in {summary.seconds:.1f} s")
    for step, times in summary.timing_ms.items():
        print(f"  {step:<10} {times['p50']:7.2f} ms (median), {times['p99']:7.2f} ms (p99)")
    print(
        "  "
        + ", ".join(f"{name} {fraction:.0%}" for name, fraction in summary.pixels.items() if fraction > 0.005)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
