# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what it shows, how it obeys its switches, and who is kept out."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from imp_trt.classes import ClassTable
from imp_trt.video.serve import BrowserView
from tests.video.serve.chromium import Chromium, Page, find_chromium
from tests.video.serve.made import CLASSES, get_json, picture, segmented, view

# A start of Chromium is several seconds of a processor.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine"),
]

RUN = "document.getElementById('run').dataset.run"
SEQUENCE = "Number(document.getElementById('picture').dataset.sequence)"
STATISTICS = {
    "captured": 12, "delivered": 9, "dropped": 2, "in_flight": 1, "frames_per_second": 8.25, "reconnects": 2,
    "deadline_ms": 60.0, "deadline_misses": 3, "age_ms": {"p50": 41.0, "p99": 70.5, "p99.9": 88.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    path = find_chromium()
    assert path is not None
    with Chromium(path, "--host-resolver-rules=MAP evil.example 127.0.0.1") as started:
        yield started


@pytest.fixture
def shown(browser: Chromium) -> Iterator[BrowserView]:
    with view(title="street.mp4", statistics=lambda: STATISTICS) as opened:
        opened.write(segmented())
        yield opened


def opened(browser: Chromium, shown: BrowserView, **options: object) -> Page:
    page = browser.page(shown.url, **options)  # type: ignore[arg-type]
    page.until(f"{SEQUENCE} > 0 && {RUN} == 'live'")
    return page


def drawn(page: Page) -> NDArray[np.uint8]:
    """What the page's canvas holds, [h, w, 3] BGR."""
    url = page.run("document.getElementById('picture').toDataURL('image/png')")
    data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def gray(page: Page, index: int) -> bool:
    """Whether the page shows a frame as the camera gave it."""
    return bool(abs(drawn(page).astype(int) - picture(index)[0, 0]).max() <= 3)


def text(page: Page, name: str) -> str:
    return str(page.run(f"document.getElementById('{name}').textContent"))


WANTED = """((pressed) => pressed.includes("overlay") ? pressed.slice(1).join() : "")(
    [...document.querySelectorAll(".switch[aria-pressed=true]")].map((button) => button.dataset.layer))"""


def switch(page: Page, layer: str, on: bool) -> None:
    """Click a switch and wait for an image with the new settings."""
    page.click(f"[data-layer={layer}]")
    page.until(
        f"document.querySelector('[data-layer={layer}]').getAttribute('aria-pressed') == '{str(on).lower()}'"
    )
    page.until(f"document.getElementById('picture').dataset.layers === {WANTED}")


def test_frame_legend_and_figures(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    assert drawn(page).shape == (4 * 48, 4 * 64, 3)  # drawn larger, as it is a small image
    assert not gray(page, 0)
    page.until("document.getElementById('rate').textContent == '8.3/s'")
    legend = page.run(
        "[...document.querySelectorAll('#classes li')].map((item) => item.innerText.split(/\\s+/).join(' '))"
    )
    assert legend == ["road 50%", "sky 50%", "car \u00d71"]
    assert text(page, "title") == "street.mp4"
    assert text(page, "latency50") == "40.0ms"
    assert text(page, "age99") == "70.5ms"
    assert "p99.9 88.0" in text(page, "age-now")
    assert text(page, "counted").startswith("captured 12 = delivered 9 + dropped 2 + in flight 1")
    assert "250 ms old" in text(page, "caption")
    # The graphs have drawn something: more than one color.
    for name in ("latency", "age"):
        colors = page.run(
            f"(() => {{ const c = document.getElementById('{name}'); const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; const s = new Set();"
            "for (let i = 0; i < d.length; i += 4) s.add(d[i] + d[i + 1] / 256); return s.size })()"
        )
        assert colors > 5
    assert page.errors == []
    page.close()


def test_the_age_of_the_canvas(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    height = "document.getElementById('canvas-age').offsetHeight"
    assert page.run(height) == 0, "every frame has the detector"
    for i, (age, words) in enumerate(((0, "0 frames"), (1, "1 frame"), (3, "3 frames")), 1):
        item = segmented(i)
        shown.write(replace(item, result=replace(item.result, canvas_age=age)))
        page.until(f"document.getElementById('canvas-age').lastElementChild.textContent == '{words}'")
        assert page.run(height) > 0
    assert page.errors == []
    page.close()


def test_new_frames_replace_old_ones(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    switch(page, "overlay", False)
    for i in (3, 9):
        sequence = page.run(SEQUENCE)
        shown.write(segmented(i))
        page.until(f"{SEQUENCE} > {sequence}")
        assert gray(page, i)
    page.close()


def test_switches(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    seen = {"classes, instances": drawn(page)}
    switch(page, "canvas", True)
    seen["all"] = drawn(page)
    switch(page, "classes", False)
    seen["instances, canvas"] = drawn(page)
    switch(page, "instances", False)
    seen["canvas"] = drawn(page)
    scale = "document.getElementById('scale').offsetHeight"
    assert page.run(scale) == 0
    switch(page, "disagreement", True)
    assert page.run(scale) > 0
    assert "0 agree" in text(page, "scale")
    seen["canvas, disagreement"] = drawn(page)
    switch(page, "canvas", False)
    seen["disagreement"] = drawn(page)
    page.press("d")
    page.until("document.getElementById('picture').dataset.layers === ''")
    assert page.run(scale) == 0
    assert gray(page, 0)
    seen["nothing"] = drawn(page)
    page.press("c")
    page.until("document.querySelector('[data-layer=classes]').getAttribute('aria-pressed') == 'true'")
    switch(page, "overlay", False)
    assert gray(page, 0)
    names = list(seen)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.array_equal(seen[one], seen[other]), (one, other)
    assert page.errors == []
    page.close()


def test_a_network_without_things_has_no_switches_for_them(browser: Chromium) -> None:
    with view(classes=ClassTable(CLASSES.names, (), CLASSES.palette)) as stuff:
        stuff.write(segmented())
        page = browser.page(stuff.url)
        page.until(f"{SEQUENCE} > 0")
        switches = "[...document.querySelectorAll('.switch')].filter((button) => button.offsetWidth)"
        assert page.run(f"{switches}.map((button) => button.dataset.layer)") == ["overlay", "classes"]
        page.close()


def test_pause_holds_the_frame_and_its_switches_still_work(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    switch(page, "overlay", False)
    page.press(" ")
    page.until(f"{RUN} == 'paused'")
    page.until("document.getElementById('caption').textContent == 'frame 0'")
    shown.write(segmented(20))
    switch(page, "overlay", True)
    assert not gray(page, 0)
    switch(page, "overlay", False)
    assert gray(page, 0)
    page.click("#pause")
    page.until("document.getElementById('caption').textContent.startsWith('frame 20')")
    assert gray(page, 20)
    page.close()


def test_sources_to_choose_from(browser: Chromium) -> None:
    with view(statistics=lambda: STATISTICS) as two:
        for i, source in enumerate(("front", "rear <b>")):
            two.write(segmented(i, source))
        page = browser.page(two.url)
        page.until(
            "document.getElementById('source').options.length == 2"
            "&& document.getElementById('source').offsetWidth"
        )
        switch(page, "overlay", False)
        assert gray(page, 0)
        page.run("document.getElementById('picture').dataset.sequence = 0")
        page.run(
            "(() => { const s = document.getElementById('source'); s.value = 'rear <b>';"
            "s.dispatchEvent(new Event('change')) })()"
        )
        page.until(f"{SEQUENCE} > 0")
        assert gray(page, 1)
        # The run's figures are those of both: not what this one takes.
        page.until("document.getElementById('age99').textContent == '50.0ms'")
        assert text(page, "rate") == "\u2013"
        assert "captured 12" in text(page, "counted")
        page.close()


def test_the_end_is_reported_and_the_last_frame_stays(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    shown.close()
    page.until(f"{RUN} == 'ended'")
    page.until("document.getElementById('message').textContent == 'The run has ended.'")
    assert text(page, "caption") == "frame 0", "its age says nothing any more"
    assert drawn(page).any()
    # A new run on the same port takes the page over, though its images count from 1 again.
    with BrowserView(shown.port, classes=CLASSES) as again:
        again.write(segmented(7))
        page.until(f"{RUN} == 'live'")
        page.until("document.getElementById('caption').textContent.startsWith('frame 7')")
    page.until(f"{RUN} == 'ended'")
    page.close()


def test_a_failed_run_says_so(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    shown.abort()
    page.until(f"{RUN} == 'failed'")
    assert text(page, "run") == "Stopped"  # by Ctrl-C, perhaps
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (768, 1024), (1280, 720), (1920, 1080)])
def test_every_width_and_theme(
    browser: Chromium, shown: BrowserView, tmp_path: Path, theme: str, width: int, height: int
) -> None:
    page = browser.page(shown.url, width, height, theme, phone=width < 500)
    page.run("localStorage.clear()")
    page.until(f"{SEQUENCE} > 0 && {RUN} == 'live'")
    assert page.run("document.documentElement.dataset.theme") == theme
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("document.getElementById('tools').getBoundingClientRect().bottom") <= height
    shot = cv2.imread(str(page.screenshot(tmp_path / "page.png")))
    corner = shot[20, 4].mean()  # of the head
    assert corner > 200 if theme == "light" else corner < 50
    assert page.errors == []
    page.close()


LEFTMOST_LABEL = """(() => {
    const pen = CanvasRenderingContext2D.prototype, fill = pen.fillText;
    window.leftmost = Infinity;
    pen.fillText = function (text, x, ...others) {
        const share = { right: 1, center: 0.5 }[this.textAlign] ?? 0;
        window.leftmost = Math.min(window.leftmost, x - share * this.measureText(text).width);
        return fill.call(this, text, x, ...others);
    };
})()"""


@pytest.mark.parametrize("age_s", [0.05, 25.0, 4000.0])
def test_axis_labels_of_any_length_are_inside_the_graph(browser: Chromium, age_s: float) -> None:
    with view() as slow:
        slow.write(segmented(age_s=age_s))
        page = opened(browser, slow)
        page.run(LEFTMOST_LABEL)
        leftmost = page.until("window.leftmost < Infinity && window.leftmost")
        assert leftmost >= 0
        page.close()


@pytest.mark.parametrize("width", [400, 1280, 1440, 1561])
def test_the_toolbar_is_one_row_that_pause_does_not_move(
    browser: Chromium, shown: BrowserView, width: int
) -> None:
    page = browser.page(shown.url, width, 900)
    page.until(f"{SEQUENCE} > 0 && {RUN} == 'live'")
    places = """JSON.stringify([...document.querySelectorAll('#tools button, #tools input')].map((item) => {
        const box = item.getBoundingClientRect(); return [box.x, box.y, box.width] }))"""
    before = page.run(places)
    middles = "[...document.querySelectorAll('#tools button')].map((b) => b.offsetTop + b.offsetHeight / 2)"
    assert width < 500 or len(set(page.run(middles))) == 1
    page.press(" ")
    page.until(f"{RUN} == 'paused'")
    assert page.run(places) == before
    page.close()


def test_a_hidden_page_asks_for_nothing(browser: Chromium, shown: BrowserView) -> None:
    page = opened(browser, shown)
    page.run(
        "(() => { Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')) })()"
    )
    shown.write(segmented(1))  # answers the request that was on its way
    page.until(f"{SEQUENCE} == 2")
    count = "performance.getEntriesByType('resource').length"
    page.run("new Promise((resolve) => setTimeout(resolve, 400))")
    before = page.run(count)
    shown.write(segmented(2))
    page.run("new Promise((resolve) => setTimeout(resolve, 600))")
    assert page.run(count) == before
    page.run("(() => { delete document.hidden; document.dispatchEvent(new Event('visibilitychange')) })()")
    page.until(f"{SEQUENCE} == 3")
    page.close()


def test_two_pages_at_once(browser: Chromium, shown: BrowserView) -> None:
    pages = [opened(browser, shown) for _ in range(2)]
    switch(pages[1], "overlay", False)
    assert not gray(pages[0], 0)
    assert gray(pages[1], 0)
    for page in pages:
        page.close()


def test_a_name_pointed_at_this_machine_shows_nothing(browser: Chromium, shown: BrowserView) -> None:
    page = browser.page(f"http://evil.example:{shown.port}/")
    page.until(
        "location.host.startsWith('evil') && document.body.innerText.includes('host name is not allowed')"
    )
    assert page.run("fetch('/state').then((answer) => answer.status)") == 421
    page.close()


class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>elsewhere</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("site", ["localhost", "evil.example"])
def test_another_site_gets_neither_frames_nor_figures(
    browser: Chromium, shown: BrowserView, site: str
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        serving = threading.Thread(target=other.serve_forever, args=(0.05,))
        serving.start()
        try:
            page = browser.page(f"http://{site}:{other.server_address[1]}/")
            page.until("document.title == 'elsewhere'")
            image = (
                "new Promise((resolve) => { const i = new Image(); i.onload = () => resolve('seen');"
                "i.onerror = () => resolve('rejected'); i.src = '%sframe?after=0' })"
            )
            read = "fetch('%sstate', %s).then(() => 'read', () => 'rejected')"
            for root in (shown.url, shown.url.replace("127.0.0.1", "localhost")):
                assert page.run(image % root) == "rejected"
                assert page.run(read % (root, "{}")) == "rejected"
            script = "import('%spage.js').then(() => 'run', () => 'rejected')"
            assert page.run(script % shown.url) == "rejected"
            page.close()
        finally:
            other.shutdown()
            serving.join(2)
    assert get_json(shown.port, "/state")["run"] == "live"
