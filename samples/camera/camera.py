"""A camera with a deadline: the newest frame counts, an alarm for what comes close, and a page to watch it.

python samples/camera/camera.py street.fp16.tensorrt.engine 0 --serve 8080 --deadline 50
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack

import numpy as np

from imp_trt import ClassTable, ImpTrtError, Segmenter
from imp_trt.errors import InvalidInput
from imp_trt.video import BrowserView, RunSummary, Segmented, interrupt_ends, open_source, run_pipeline
from imp_trt.video.sinks import Base, OverlayVideo, Window

CLOSE = 0.75  # a box that reaches below this share of the picture's height is close
SURE = 0.5  # lowest score that counts


class Alarm(Base):
    """A sink of your own: says when something of a class comes close, and when it is gone.

    Args:
        names: of the classes; none means all things that the network knows.
        classes: the network's.

    Raises:
        InvalidInput: the network does not know a class.
    """

    def __init__(self, names: list[str], classes: ClassTable) -> None:
        names = names or [classes.names[label] for label in classes.things]
        for name in names:
            if name not in classes.names:
                raise InvalidInput("class", expected=f"one of {', '.join(classes.names)}", got=name)
        self._labels = [classes.names.index(name) for name in names]
        self._what = " or ".join(names)
        self._raised = False

    def write(self, item: Segmented) -> bool:
        """Called for every frame, in one thread, in order. False would end the run."""
        found = item.result.instances.above(SURE)
        low = found.boxes[:, 3] > CLOSE * item.result.size[0]
        close = bool(np.any(low & np.isin(found.labels, self._labels)))
        if close != self._raised:
            age = f", {item.age_s * 1e3:.0f} ms after the camera saw it" if item.age_s is not None else ""
            print(f"frame {item.frame.index}: {self._what} {'close' if close else 'gone'}{age}", flush=True)
            self._raised = close
        return True


def watch(options: argparse.Namespace) -> RunSummary:
    """Run until the window is closed, Ctrl-C, --frames, or a camera that stays away for five minutes.

    Raises:
        ImpTrtError: no such network or camera, or nothing can be shown or written.
    """

    def event(kind: str, text: str) -> None:
        print(f"camera {kind}: {text}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        # The first Ctrl-C ends the run as a closed window does, and keeps the recording; a second interrupts.
        ended = stack.enter_context(interrupt_ends())
        segmenter = stack.enter_context(Segmenter(options.artifact))
        segmenter.warmup()  # before the camera: the first frame is to be as fast as the others
        camera = stack.enter_context(open_source(options.camera, on_event=event))
        # Each is entered when it is there: if a later one cannot be opened, it leaves nothing.
        sinks = [stack.enter_context(Alarm(options.alarm, segmenter.classes))]
        if options.record:
            # Timed by the capture: what was dropped does not make the recording run faster.
            sinks.append(stack.enter_context(OverlayVideo(options.record, camera.fps, times="capture")))
        if options.serve is None:
            sinks.append(stack.enter_context(Window("camera (q quits)")))
        else:
            view = BrowserView(options.serve, classes=segmenter.classes, title=camera.name)
            print(f"watch at {view.url}", file=sys.stderr, flush=True)
            sinks.append(stack.enter_context(view))
        # A camera that is faster than the network: the oldest waiting frame makes room for the newest.
        return run_pipeline(
            segmenter,
            camera,
            sinks,
            max_frames=options.frames,
            deadline_s=options.deadline / 1e3 if options.deadline else None,
            on_progress=lambda state: not ended.is_set(),
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", help="an engine for this GPU, or an .onnx file")
    parser.add_argument(
        "camera", help="0, /dev/video0, v4l2:///dev/video0?width=1280&height=720, csi://0, rtsp://"
    )
    parser.add_argument("--serve", type=int, metavar="PORT", help="show it in a browser, not in a window")
    parser.add_argument("--record", metavar="FILE", help="also write the overlay, e.g. to out.mp4")
    parser.add_argument("--alarm", nargs="+", default=[], metavar="CLASS", help="default: all things")
    parser.add_argument("--deadline", type=float, metavar="MS", help="count results that are older than this")
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
        print(f"age of the results: p50 {age['p50']:.0f}, p99 {age['p99']:.0f}, most {age['max']:.0f} ms")
    if options.deadline:
        print(f"{summary.deadline_misses} older than {options.deadline:g} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
