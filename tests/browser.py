"""A real Chromium without a window, for tests of pages.

A test module that says ``pytest_plugins = ["browser"]`` has the fixture `tab`. It imports `Tab` for its types only:
pytest wants to be the first to load a plugin.

The browser lives as long as the tests of one module. In that time an event loop of Playwright's runs in this thread, so
code that starts a loop of its own (``asyncio.run``) belongs into another module, or into another thread.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import attrs
import cv2
import numpy as np
import pytest

from tsm_training import Image

__all__ = ["Tab", "chromium", "tab"]

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # it does not start as root otherwise, and shows nothing but our own pages
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

_TEXTS: Final = """() => {
  const visible = element => element.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const scrolls = element => element !== null && element !== document.documentElement &&
    (["auto", "scroll", "hidden"].includes(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const parent = walker.currentNode.parentElement;
    const silent = ["SCRIPT", "STYLE", "NOSCRIPT", "DESC", "TITLE"].includes(parent.tagName.toUpperCase());
    if (!text || silent || !visible(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const boxes = [...range.getClientRects()].filter(box => box.width > 1 && box.height > 1);
    for (const box of boxes)
      found.push({text: text.slice(0, 60), x: box.x, y: box.y, right: box.right, bottom: box.bottom,
                  letters: text.length, lines: boxes.length,
                  size: parseFloat(getComputedStyle(parent).fontSize), clipped: scrolls(parent)});
  }
  return found;
}"""
"""Finds every piece of text that is shown, and where."""


@attrs.define(eq=False)
class Tab:
    """One page, and everything that it complained about."""

    PHONE: ClassVar = (360, 740)
    DESK: ClassVar = (1200, 900)

    page: Any
    """Playwright's own, for whatever is not offered here."""
    console_errors: list[str] = attrs.field(factory=list)
    failed_requests: list[str] = attrs.field(factory=list)
    """Requests that failed, or were answered with a status of 400 or more."""
    requests: list[str] = attrs.field(factory=list)
    """The addresses of all of them."""

    def __attrs_post_init__(self) -> None:
        self.page.on("console", lambda m: self.console_errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda request: self._note_failure(request.failure, request.url))
        self.page.on("response", lambda response: self._note_status(response.status, response.url))

    def _note_failure(self, reason: str, address: str) -> None:
        if reason != "net::ERR_ABORTED":  # somebody has left the page before the answer came
            self.failed_requests.append(f"{reason} {address}")

    def _note_status(self, status: int, address: str) -> None:
        if status >= 400:
            self.failed_requests.append(f"{status} {address}")

    # --- doing ---

    def open(self, address: str | Path) -> None:
        """Open an address or a file, and wait until everything is loaded."""
        self.page.goto(address.absolute().as_uri() if isinstance(address, Path) else address, wait_until="load")

    def resize(self, size: tuple[int, int]) -> None:
        """Set width and height of what is seen."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})

    def prefer(self, scheme: Literal["light", "dark"], medium: Literal["screen", "print"] = "screen") -> None:
        """Set the colours that the reader prefers, and whether he looks at a screen or at paper."""
        self.page.emulate_media(color_scheme=scheme, media=medium)

    def click(self, selector: str) -> None:
        """Click what a CSS selector (or one of Playwright's, such as ``text=Train``) names; it must be one thing."""
        self.page.locator(selector).click()

    def fill(self, selector: str, text: str) -> None:
        """Write into a field."""
        self.page.locator(selector).fill(text)

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a form."""
        self.page.locator(selector).set_input_files(path)

    def wait_for_text(self, text: str, within: str = "body", seconds: float = 20.0) -> None:
        """Wait until a text is shown somewhere within an element."""
        self.page.locator(within).get_by_text(text).first.wait_for(state="visible", timeout=1000 * seconds)

    # --- looking ---

    def text(self, selector: str = "body") -> str:
        """Return the text that an element shows."""
        shown: str = self.page.locator(selector).inner_text()
        return shown

    def count(self, selector: str) -> int:
        """Return how many elements a selector finds."""
        found: int = self.page.locator(selector).count()
        return found

    def screenshot(self, path: Path | None = None, *, whole: bool = True) -> Image:
        """Return a picture (uint8, H×W×3, BGR) of the page, below the window too, and keep it as a PNG file."""
        data: bytes = self.page.screenshot(full_page=whole)
        if path is not None:
            path.write_bytes(data)
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.uint8)

    def broken_images(self) -> list[str]:
        """Return the sources of pictures that show nothing, after those below the window had time to come."""
        script = """async () => {
            const images = [...document.images];
            for (const image of images) image.loading = "eager";
            const arrived = image => image.complete || new Promise(done => { image.onload = image.onerror = done; });
            await Promise.all(images.map(arrived));
            return images.filter(image => image.naturalWidth === 0).map(image => image.src);
        }"""
        broken: list[str] = self.page.evaluate(script)
        return broken

    def layout_faults(self, smallest_text: float = 10.0) -> list[str]:
        """Return texts that overlap, stick out of the window, are broken into few letters a line, or are too small."""
        texts = self.page.evaluate(_TEXTS)
        width = self.page.evaluate("document.documentElement.clientWidth")
        faults = [f"{t['text']!r} is too small" for t in texts if t["size"] < smallest_text]
        faults += [f"{t['text']!r} is broken" for t in texts if t["lines"] > 2 and t["letters"] / t["lines"] < 5]
        shown = [t for t in texts if not t["clipped"]]
        faults += [f"{t['text']!r} sticks out" for t in shown if t["x"] < -1 or t["right"] > width + 1]
        if self.page.evaluate("document.documentElement.scrollWidth") > width:
            faults.append("the page is wider than the window")
        for number, one in enumerate(texts):
            faults += [
                f"{one['text']!r} and {other['text']!r} overlap" for other in texts[:number] if _meet(one, other)
            ]
        return faults

    def accessibility_faults(self) -> list[str]:
        """Return what axe finds: contrast, alternative texts, labels, headings, landmarks and much more."""
        axe = importlib.import_module("axe_playwright_python.sync_playwright").Axe()
        violations = axe.run(self.page).response["violations"]
        return [
            f"{violation['id']}: {violation['help']}: {node['html']} {node['failureSummary']}"
            for violation in violations
            for node in violation["nodes"]
        ]

    def assert_clean(self) -> None:
        """Make sure that nothing was complained about and no request has failed."""
        assert self.console_errors == []
        assert self.failed_requests == []


def _meet(one: dict[str, Any], other: dict[str, Any], slack: float = 2.0) -> bool:
    """Tell whether two boxes share more than the edge that letters of neighbouring lines may share."""
    across = min(one["right"], other["right"]) - max(one["x"], other["x"])
    down = min(one["bottom"], other["bottom"]) - max(one["y"], other["y"])
    height = min(one["bottom"] - one["y"], other["bottom"] - other["y"])
    return across > slack and down > max(slack, 0.3 * height)


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Playwright's browser: the Chromium that the system has; where there is none, the tests are skipped."""
    executable = next(filter(None, map(shutil.which, _NAMES)), None)
    if executable is None:
        pytest.skip("Chromium is not installed: on Debian, apt-get install chromium")
    for name in ("playwright", "axe_playwright_python"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[dev]'")
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    """A page of its own for each test, with light colours and room for a desk's screen."""
    context = chromium.new_context(
        viewport={"width": Tab.DESK[0], "height": Tab.DESK[1]}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(20_000)
    yield Tab(context.new_page())
    context.close()
