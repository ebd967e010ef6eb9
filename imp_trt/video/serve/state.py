# SPDX-License-Identifier: Apache-2.0
"""State that the connections of the browser view share, and its JSON responses."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from threading import Condition
from typing import TypedDict

import numpy as np

from imp_trt.classes import ClassTable
from imp_trt.errors import OutputError
from imp_trt.video.serve.frame_store import FrameStore, Sample, StoredFrame
from imp_trt.video.serve.render import LAYERS, Renderer, View

_PAGE_TIMEOUT_S = 1.0  # a page that sent no request for longer is assumed closed

_log = logging.getLogger(__name__)


class FrameContent(TypedDict, total=False):
    """Content of the newest frame; shares and counts are missing if the result cannot be read.

    canvas_age is there where the detector runs on some frames only: frames since it ran.
    """

    sequence: int
    width: int
    height: int
    alpha: float
    min_score: float
    canvas_age: int
    shares: list[float]
    counts: list[int]


class ViewState:
    """State that the threads of all connections share.

    Attributes:
        clock: the clock of Frame.captured_s.
        statistics: returns the statistics of the run, data for JSON; None until they are available.
        names: accepted host names, in addition to IP addresses.
        loopback: the server listens on the loopback interface only.
    """

    def __init__(self, classes: ClassTable, title: str, clock: Callable[[], float]) -> None:
        self.frames = FrameStore(clock)
        self.renderer = Renderer()
        self.clock = clock
        self.statistics: Callable[[], Mapping[str, object]] | None = None
        self.names: frozenset[str] = frozenset()
        self.loopback = True
        self._classes = classes
        self._title = title
        # Lets a page detect that a new run has started and that sequence numbers restart.
        self._run_id = secrets.token_hex(8)
        self._content: FrameContent | None = None
        self._pages: dict[str, float] = {}
        self._changed = Condition()
        self._reported_errors: set[str] = set()

    def about(self) -> bytes:
        """Return the constants of the run as JSON: id, title, layers and classes."""
        table = self._classes
        rows = [
            {"name": name, "rgb": rgb, "thing": k in table.things}
            for k, (name, rgb) in enumerate(zip(table.names, table.palette, strict=True))
        ]
        about = {"run_id": self._run_id, "title": self._title, "layers": LAYERS, "classes": rows}
        return json.dumps(about).encode()

    def snapshot(self, after: int, source: str, page: str) -> bytes:
        """Return the state of the run as JSON: statistics, newest frame, and timing of recent frames.

        Args:
            after: sequence number; timing is returned for frames with higher numbers.
            page: identifier of the requesting page, see :meth:`wait_until_notified`.
        """
        run = self.frames.run
        self._register(page, run)
        shown = self.frames.newest(source)
        state = {
            "run_id": self._run_id,
            "run": run,
            "now": round(self.frames.seconds(), 3),
            "sources": self.frames.sources(),
            "frame": None if shown is None else self._frame(shown),
            "statistics": self._statistics(),
            "samples": [_rounded(sample) for sample in self.frames.samples(after)],
        }
        return json.dumps(state).encode()

    def jpeg(self, shown: StoredFrame, view: View) -> bytes:
        """Return a frame as JPEG, rendered with the settings of a viewer.

        Raises:
            OutputError: it cannot be rendered. Also logged, once for each reason.
        """
        try:
            return self.renderer.jpeg(shown, view)
        except Exception as error:
            # No error here may affect the run or the other viewers.
            self.report_error(error)
            raise OutputError("image for the browser", got=f"{type(error).__name__}: {error}") from error

    def _register(self, page: str, run: str) -> None:
        """Record the request of a page, or that it has received the end of the run."""
        with self._changed:
            self._discard_old()
            if run == "live" and page:
                self._pages[page] = time.monotonic()
            else:
                self._pages.pop(page, None)
                self._changed.notify_all()

    def _discard_old(self) -> None:
        now = time.monotonic()
        self._pages = {name: at for name, at in self._pages.items() if now - at < _PAGE_TIMEOUT_S}

    def wait_until_notified(self, timeout: float) -> None:
        """Wait until every open page has received the end of the run, at most timeout seconds."""
        with self._changed:
            self._discard_old()
            self._changed.wait_for(lambda: not self._pages, timeout)

    def _frame(self, shown: StoredFrame) -> FrameContent:
        with self._changed:
            if self._content is None or self._content.get("sequence") != shown.sequence:
                self._content = self._describe(shown)
            return self._content

    def _describe(self, shown: StoredFrame) -> FrameContent:
        item = shown.item
        h, w = item.frame.image.shape[:2]
        content: FrameContent = {
            "sequence": shown.sequence,
            "width": w,
            "height": h,
            "alpha": item.draw.opacity,
            "min_score": item.draw.min_score,
        }
        if item.result.canvas_age is not None:
            content["canvas_age"] = item.result.canvas_age
        try:
            instances = item.result.instances
            labels = instances.labels[instances.scores >= item.draw.min_score]  # [N] int32
            content["shares"] = (item.result.pixel_counts() / (h * w)).round(6).tolist()
            content["counts"] = np.bincount(labels, minlength=len(self._classes)).tolist()
        except Exception as error:  # such as a GPU failure, which the run itself reports
            self.report_error(error)
        return content

    def _statistics(self) -> dict[str, object]:
        try:
            snapshot = dict(self.statistics()) if self.statistics is not None else {}
            json.dumps(snapshot, allow_nan=False)  # browsers do not parse NaN
        except Exception as error:
            self.report_error(error)
            return {}
        return snapshot

    def report_error(self, error: Exception) -> None:
        """Log an error once, because it may occur for every frame."""
        kind = f"{type(error).__name__}: {error}"
        with self._changed:
            new = kind not in self._reported_errors and len(self._reported_errors) < 20
            self._reported_errors |= {kind} if new else set()
        if new:
            _log.warning("browser view: %s", kind)


def _rounded(sample: Sample) -> list[object]:
    return [round(value, 3) if isinstance(value, float) else value for value in sample]
