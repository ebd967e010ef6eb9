"""What the browser view says about the run, as JSON."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from threading import Condition
from typing import Any

import numpy as np

from imp_trt.classes import ClassTable
from imp_trt.errors import OutputError
from imp_trt.video.serve.latest import Latest, Shown
from imp_trt.video.serve.painting import LAYERS, Painter, View

_WATCHING_S = 1.0

_log = logging.getLogger(__name__)


class Site:
    """What every viewer's thread shares.

    Attributes:
        clock: that of Frame.captured_s.
        statistics: the run's counters, plain data for JSON; None until there are some.
        names: Host names that are answered, beside IP addresses.
        loopback: only this machine can ask.
    """

    def __init__(self, classes: ClassTable, title: str, clock: Callable[[], float]) -> None:
        self.latest = Latest(clock)
        self.painter = Painter()
        self.clock = clock
        self.statistics: Callable[[], Mapping[str, Any]] | None = None
        self.names: frozenset[str] = frozenset()
        self.loopback = True
        self._classes = classes
        self._title = title
        # A page that outlives a run learns from it that the numbers begin anew.
        self._run_id = secrets.token_hex(8)
        self._seen: tuple[int, dict[str, Any]] | None = None
        self._pages: dict[str, float] = {}
        self._changed = Condition()
        self._troubles: set[str] = set()

    def about(self) -> bytes:
        """What does not change during a run: id, title, layers and classes."""
        table = self._classes
        rows = [
            {"name": name, "rgb": rgb, "thing": k in table.things}
            for k, (name, rgb) in enumerate(zip(table.names, table.palette, strict=True))
        ]
        about = {"run_id": self._run_id, "title": self._title, "layers": LAYERS, "classes": rows}
        return json.dumps(about).encode()

    def state(self, after: int, source: str, page: str) -> bytes:
        """What does: counters, the newest picture's content, and the times of pictures after a number.

        Args:
            page: what the asking page calls itself; it is told of the end of the run before that comes.
        """
        run = self.latest.run
        self._asked(page, run)
        shown = self.latest.newest(source)
        state = {
            "run_id": self._run_id,
            "run": run,
            "now": round(self.latest.seconds(), 3),
            "sources": self.latest.sources(),
            "frame": None if shown is None else self._frame(shown),
            "statistics": self._snapshot(),
            "samples": [_short(sample) for sample in self.latest.samples(after)],
        }
        return json.dumps(state).encode()

    def jpeg(self, shown: Shown, view: View) -> bytes:
        """A picture as somebody wants to see it.

        Raises:
            OutputError: it cannot be drawn. The log says so as well, once for each reason.
        """
        try:
            return self.painter.jpeg(shown, view)
        except Exception as error:
            # Whatever it is, the run goes on, and so do the other viewers.
            self.trouble(error)
            raise OutputError("picture for the browser", got=f"{type(error).__name__}: {error}") from error

    def _asked(self, page: str, run: str) -> None:
        with self._changed:
            self._forget()
            if run == "live" and page:
                self._pages[page] = time.monotonic()
            else:
                self._pages.pop(page, None)
                self._changed.notify_all()

    def _forget(self) -> None:
        now = time.monotonic()
        self._pages = {name: at for name, at in self._pages.items() if now - at < _WATCHING_S}

    def wait_until_told(self, timeout: float) -> None:
        """Until every page that was looking knows that the run has ended, but no longer than timeout."""
        with self._changed:
            self._forget()
            self._changed.wait_for(lambda: not self._pages, timeout)

    def _frame(self, shown: Shown) -> dict[str, Any]:
        with self._changed:
            if self._seen is None or self._seen[0] != shown.sequence:
                self._seen = (shown.sequence, self._content(shown))
            return self._seen[1]

    def _content(self, shown: Shown) -> dict[str, Any]:
        item = shown.item
        h, w = item.frame.image.shape[:2]
        content: dict[str, Any] = {
            "sequence": shown.sequence,
            "width": w,
            "height": h,
            "alpha": item.draw.alpha,
            "min_score": item.draw.min_score,
        }
        try:
            found = item.result.instances
            labels = found.labels[found.scores >= item.draw.min_score]
            content["shares"] = (item.result.pixel_counts() / (h * w)).round(6).tolist()
            content["counts"] = np.bincount(labels, minlength=len(self._classes)).tolist()
        except Exception as error:  # of a GPU that failed: the run will say so itself
            self.trouble(error)
        return content

    def _snapshot(self) -> dict[str, Any]:
        try:
            snapshot = dict(self.statistics()) if self.statistics is not None else {}
            json.dumps(snapshot, allow_nan=False)  # a browser reads no NaN
        except Exception as error:
            self.trouble(error)
            return {}
        return snapshot

    def trouble(self, error: Exception) -> None:
        """Log something that a viewer could not be shown, once a kind: it may happen at every picture."""
        kind = f"{type(error).__name__}: {error}"
        with self._changed:
            new = kind not in self._troubles and len(self._troubles) < 20
            self._troubles |= {kind} if new else set()
        if new:
            _log.warning("the browser view cannot show something: %s", kind)


def _short(sample: tuple[Any, ...]) -> list[Any]:
    return [round(value, 3) if isinstance(value, float) else value for value in sample]
