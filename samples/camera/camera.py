# SPDX-License-Identifier: Apache-2.0
"""Segment a camera with a deadline, print an alarm for near objects, and show a live view.

python samples/camera/camera.py street.fp16.tensorrt.engine 0 --serve 8080 --deadline 50
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

import numpy as np

from imp_trt import ClassTable, ImpTrtError, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import (
    BrowserView,
    RunSummary,
    SegmentedFrame,
    open_source,
    run_pipeline,
    stop_on_interrupt,
)
from imp_trt.video.sinks import BaseSink, OverlayVideo, Window

NEAR = 0.75  # an object is near if its box extends below this fraction of the image height
MIN_SCORE = 0.5


class Alarm(BaseSink):
    """Example of a custom sink: prints when an object of given classes is near, and when it is gone.

    Args:
        names: names of the classes; empty for all thing classes of the network.
        classes: classes of the network.

    Raises:
        InvalidInput: the network does not have such a class.
    """

    def __init__(self, names: list[str], classes: ClassTable) -> None:
        names = names or [classes.names[label] for label in classes.things]
        for name in names:
            if name not in classes.names:
                raise InvalidInput("class", expected=f"one of {', '.join(classes.names)}", got=name)
        self._labels = [classes.names.index(name) for name in names]
        self._what = " or ".join(names)
        self._raised = False

    def write(self, item: SegmentedFrame) -> bool:
        """Called for each frame, in order, from one thread. Returning False would end the run."""
        instances = item.result.instances.filter(min_score=MIN_SCORE)
        below = instances.boxes[:, 3] > NEAR * item.result.size[0]
        near = bool(np.any(below & np.isin(instances.labels, self._labels)))
        if near != self._raised:
            age = f", {item.age_s * 1e3:.0f} ms after capture" if item.age_s is not None else ""
            print(f"frame {item.frame.index}: {self._what} {'near' if near else 'gone'}{age}", flush=True)
            self._raised = near
        return True


def watch(options: argparse.Namespace) -> RunSummary:
    """Run until the window is closed, Ctrl-C, --frames, or until reconnecting the camera times out.

    Raises:
        ImpTrtError: the network, the camera or an output cannot be opened.
    """

    def event(kind: str, text: str) -> None:
        print(f"camera {kind}: {text}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        # The first Ctrl-C ends the run and keeps the recording; a second one interrupts.
        stopped = stack.enter_context(stop_on_interrupt())
        segmenter = stack.enter_context(Segmenter(options.artifact))
        segmenter.warmup()  # before opening the camera, so that the first frame is not delayed
        camera = stack.enter_context(open_source(options.camera, on_event=event))
        # Each sink is entered immediately, so that it is aborted if a later one cannot be opened.
        sinks = [stack.enter_context(Alarm(options.alarm, segmenter.classes))]
        if options.record:
            # Every frame keeps its time: dropped frames do not make the recording run faster.
            sinks.append(stack.enter_context(OverlayVideo(options.record, camera.fps)))
        if options.serve is None:
            sinks.append(stack.enter_context(Window("camera (q quits)")))
        else:
            view = BrowserView(options.serve, classes=segmenter.classes, title=camera.name)
            print(f"live view: {view.url}", file=sys.stderr, flush=True)
            sinks.append(stack.enter_context(view))
        # If the camera is faster than the network, the newest frame replaces the oldest queued one.
        return run_pipeline(
            segmenter,
            camera,
            sinks,
            max_frames=options.frames,
            deadline_s=options.deadline / 1e3 if options.deadline else None,
            on_progress=lambda state: not stopped.is_set(),
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", help="an engine for this GPU, or an .onnx file")
    parser.add_argument(
        "camera", help="0, /dev/video0, v4l2:///dev/video0?width=1280&height=720, csi://0, rtsp://"
    )
    parser.add_argument(
        "--serve", type=int, metavar="PORT", help="live view in the browser instead of a window"
    )
    parser.add_argument("--record", metavar="FILE", help="write the overlay to a video, such as out.mp4")
    parser.add_argument(
        "--alarm", nargs="+", default=[], metavar="CLASS", help="classes (default: all thing classes)"
    )
    parser.add_argument(
        "--deadline", type=float, metavar="MS", help="count results older than this as deadline misses"
    )
    parser.add_argument("--frames", type=int, help="stop after so many")
    options = parser.parse_args(arguments)
    try:
        summary = watch(options)
    except ImpTrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    age = summary.age_ms
    print(f"{summary.frames} frames shown, {summary.dropped} dropped, {summary.reconnects} reconnections")
    if age:
        print(f"age of the results: p50 {age['p50']:.0f}, p99 {age['p99']:.0f}, maximum {age['max']:.0f} ms")
    if options.deadline:
        print(f"{summary.deadline_misses} older than {options.deadline:g} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
