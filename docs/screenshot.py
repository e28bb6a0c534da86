"""A screenshot of the example application's page, taken when the site is built, where a browser can be started."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tsm_training.data import ROLES

_APPLICATION = Path(__file__).parent.parent / "examples" / "flask_app"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_SIZE = {"width": 1100, "height": 1250}


def write_screenshot(folder: Path, rows: Sequence[tuple[Path, Path, Path]]) -> None:
    """Write ``dashboard.png``, and what the page about it includes: the picture, or why there is none.

    Args:
        folder: Where both are written.
        rows: Triples of picture files for the application to train on.
    """
    missing = [name for name in ("flask", "playwright") if importlib.util.find_spec(name) is None]
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    missing += [] if browser else ["Chromium"]
    if missing and os.environ.get("CI") == "true":
        raise RuntimeError(f"no screenshot can be taken without {', '.join(missing)}")
    if missing:
        text = f"(This site was built without {', '.join(missing)}: here would be a screenshot of the page.)\n"
    else:
        _photograph(folder / "dashboard.png", rows, str(browser))
        text = "![The page: counts, progress, verdict, learning curve and contact sheet](generated/dashboard.png)\n"
    (folder / "dashboard.inc").write_text(text, encoding="utf-8")


def _photograph(picture: Path, rows: Sequence[tuple[Path, Path, Path]], browser: str) -> None:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - neither is needed for anything else
    from werkzeug.serving import make_server  # noqa: PLC0415

    sys.path.insert(0, str(_APPLICATION))
    try:
        from app import create_app  # noqa: PLC0415 - the application is no package
        from service import EXTENSION  # noqa: PLC0415
    finally:
        sys.path.remove(str(_APPLICATION))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    where = rows[0][0].parent
    app = create_app(where / "dashboard.db", where / "uploads")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        client = app.test_client()
        for row in rows:
            files = {role: (io.BytesIO(path.read_bytes()), path.name) for role, path in zip(ROLES, row, strict=True)}
            _expect(client.post("/training/add-example", data=files))
        _expect(client.post("/training/train", json={"epochs": 5, "validation_split": 0.3}))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=list(_FLAGS))
            page = chromium.new_page(viewport=_SIZE)
            page.goto(f"http://127.0.0.1:{server.server_port}/training/dashboard")
            page.locator(".sheet").scroll_into_view_if_needed()
            page.locator(".sheet").evaluate("picture => picture.decode()")
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=picture)
            chromium.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.extensions[EXTENSION].close()


def _expect(response: object) -> None:
    status = getattr(response, "status_code", None)
    if status != 200:  # noqa: PLR2004 - anything else is no picture to show
        raise RuntimeError(f"the application answered {status}")
