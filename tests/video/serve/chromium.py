# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium driven through its DevTools pipe: nothing but the standard library and the browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 30.0


def find_chromium() -> str | None:
    """Path of the browser, None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


class Chromium:
    """A browser of its own profile; a context manager."""

    def __init__(self, path: str, *flags: str) -> None:
        self._pages: dict[str, Page] = {}
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()
        # The browser reads descriptor 3 and writes 4: what goes there must not lie there already.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (read, write)]
        argv = [path, *FLAGS, *flags, f"--user-data-dir={self._profile}", "about:blank"]
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
        moved = [(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in zip(high, (3, 4), strict=True)]
        self._pid = os.posix_spawn(path, argv, os.environ, file_actions=[*quiet, *moved], setpgroup=0)
        for fd in (read, write, *high):
            os.close(fd)
        self._sent = 0
        self._received = b""

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._out)
        os.close(self._in)
        shutil.rmtree(self._profile, ignore_errors=True)

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One call of the DevTools protocol."""
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("the browser is gone")
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.heard(message["method"], message["params"])
        return message

    def page(
        self, url: str, width: int = 1280, height: int = 800, theme: str = "light", phone: bool = False
    ) -> Page:
        """A new tab of that size at url."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        page.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        page.ask("Page.navigate", url=url)
        return page


class Page:
    """One tab.

    Attributes:
        errors: what it complained about: exceptions, failed scripts, violations of its policy.
    """

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        self.errors: list[str] = []

    def heard(self, event: str, params: dict[str, Any]) -> None:
        """Note what the tab reports, if it is an error."""
        if event == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One call of the DevTools protocol in this tab."""
        return self._browser.ask(method, self._session, **params)

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", script))
        return answer["result"].get("value")

    def until(self, condition: str, timeout: float = 10.0) -> Any:
        """Wait until a JavaScript expression is true, and give it back."""
        deadline = time.monotonic() + timeout
        # Before the page is there its elements are null.
        condition = f"(() => {{ try {{ return {condition} }} catch {{ return null }} }})()"
        while not (value := self.run(condition)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} stays {value!r}")
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element, once it stays where it is."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        middle = f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2] }})()"
        x, y = self.run(middle)
        for _ in range(100):  # what appears elsewhere on the page moves it
            time.sleep(0.05)
            before, (x, y) = (x, y), self.run(middle)
            if (x, y) == before:
                break
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """A key."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

    def screenshot(self, path: Path, whole: bool = False) -> Path:
        """Screenshot of the tab as PNG; whole: of the entire page."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def close(self) -> None:
        """Close the tab as a user does."""
        self._browser.ask("Target.closeTarget", targetId=self._target)
