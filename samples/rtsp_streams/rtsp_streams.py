# SPDX-License-Identifier: Apache-2.0
"""Segment several camera streams with one engine; the newest frame of each stream is used.

python samples/rtsp_streams/rtsp_streams.py street.fp16.tensorrt.engine \\
    rtsp://viewer:secret@front/stream rtsp://viewer:secret@rear/stream -o results --serve 8080
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from imp_trt import ImpTrtError, Segmenter
from imp_trt.video import (
    BrowserView,
    RunSummary,
    Snapshot,
    SourceSnapshot,
    open_source,
    run_pipeline,
    short_names,
    stop_on_interrupt,
)
from imp_trt.video.sinks import JsonLines, OverlayVideo, Sink
from imp_trt.video.sources import Source

FPS = 15.0  # of the overlays, if the streams do not report their frame rate
REPORT_S = 5.0


def open_all(addresses: list[str], stack: ExitStack) -> list[Source]:
    """Open the streams in parallel, because each waits seconds for its first frame.

    Raises:
        SourceError: one of them cannot be opened; the others are closed.
    """

    def event(kind: str, text: str) -> None:
        print(f"{kind}: {text}", file=sys.stderr, flush=True)  # credentials are removed from addresses

    with ThreadPoolExecutor(len(addresses)) as pool:
        opening = [pool.submit(open_source, address, on_event=event) for address in addresses]
        # Streams that were opened are closed at the end, even if others failed.
        failures = [one.exception() for one in opening]
    for one, failure in zip(opening, failures, strict=True):
        if failure is None:
            stack.enter_context(one.result())
    for failure in failures:
        if failure is not None:
            raise failure
    return [one.result() for one in opening]


def counted(stream: SourceSnapshot) -> str:
    """Format the counts of one stream."""
    counts = f"{stream['captured']} captured, {stream['delivered']} delivered, {stream['dropped']} dropped"
    return f"{stream['name']:<16} {counts}, {stream['reconnects']} reconnections"


def watch(options: argparse.Namespace) -> RunSummary:
    """Run until Ctrl-C, --frames, or until reconnecting a stream times out. Results are kept in all cases.

    Raises:
        ImpTrtError: the network, a stream or an output cannot be opened, or a stream was lost.
    """
    reported = time.monotonic()

    def report(state: Snapshot) -> bool:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_S:
            reported = time.monotonic()
            print(*map(counted, state["sources"]), sep="\n", file=sys.stderr, flush=True)
        return not stopped.is_set()  # False ends the run; the files are completed

    with ExitStack() as stack:
        stopped = stack.enter_context(stop_on_interrupt())  # set by the first Ctrl-C
        segmenter = stack.enter_context(Segmenter(options.artifact))
        segmenter.warmup()
        streams = open_all(options.streams, stack)
        sinks: list[Sink] = []
        if options.output:
            # One JSON Lines file for all streams, and one overlay per stream: overlay_front.mp4, ...
            sinks.append(stack.enter_context(JsonLines(options.output / "frames.jsonl")))
            # Every frame keeps its time, so that dropped frames do not make an overlay run faster.
            rates = {name: s.fps or FPS for name, s in zip(short_names(streams), streams, strict=True)}
            fps = rates if len(streams) > 1 else streams[0].fps or FPS
            sinks.append(stack.enter_context(OverlayVideo(options.output / "overlay.mp4", fps)))
        if options.serve is not None:
            view = BrowserView(options.serve, classes=segmenter.classes)
            print(f"live view: {view.url}", file=sys.stderr, flush=True)
            sinks.append(stack.enter_context(view))
        # Each stream has its own queue, so that a fast stream does not displace a slow one.
        return run_pipeline(
            segmenter, streams, sinks, queue_size=1, max_frames=options.frames, on_progress=report
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", help="an engine for this GPU, or an .onnx file")
    parser.add_argument("streams", nargs="+", help="rtsp:// addresses; cameras and files work too")
    parser.add_argument("-o", "--output", type=Path, help="folder for overlays and frames.jsonl")
    parser.add_argument("--serve", type=int, metavar="PORT", help="serve a live view in the browser")
    parser.add_argument("--frames", type=int, help="stop after this number of frames, over all streams")
    options = parser.parse_args(arguments)
    try:
        summary = watch(options)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(*map(counted, summary.sources), sep="\n")
    print(f"{summary.frames / summary.seconds:.1f} frames/s in total")
    if summary.age_ms and all(stream["live"] for stream in summary.sources):  # files have no age
        print(f"age of the results: p50 {summary.age_ms['p50']:.0f}, p99 {summary.age_ms['p99']:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
