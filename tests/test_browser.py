"""The helper that looks at pages: it sees what is wrong with one, and nothing where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from browser import Tab

pytest_plugins = ["browser"]
pytestmark = pytest.mark.slow

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><style>
  body {{ margin: 20px; background: #fff; color: #111; }}
  @media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #eee; }} a {{ color: #9cf; }} }}
  @media print {{ nav {{ display: none; }} }}
</style></head><body><nav><a href="#end">To the end</a></nav><main><h1>A page</h1>
{body}
<p id="end">The end</p></main></body></html>"""


def written(folder: Path, body: str) -> Path:
    path = folder / "page.html"
    path.write_text(PAGE.format(body=body), encoding="utf-8")
    return path


def test_a_good_page_has_no_faults_in_any_light(tab: Tab, tmp_path: Path) -> None:
    picture = '<img alt="a dot" src="data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs=">'
    tab.open(written(tmp_path, f"<h2>Part</h2><p>Some <b>text</b> in a paragraph.</p>{picture}"))
    for scheme, size in (("light", tab.DESK), ("dark", tab.PHONE)):
        tab.prefer(scheme)  # type: ignore[arg-type]
        tab.resize(size)
        assert tab.layout_faults() == []
        assert tab.accessibility_faults() == []
        shown = tab.screenshot(tmp_path / f"{scheme}.png")
        assert shown.shape[1] == size[0]
        assert (tmp_path / f"{scheme}.png").read_bytes().startswith(b"\x89PNG")
        assert np.median(shown) == (255 if scheme == "light" else 17)
    tab.prefer("light", "print")
    assert "To the end" not in tab.text()
    assert tab.broken_images() == []
    assert tab.requests[0].startswith("file:///")
    tab.assert_clean()


def test_layout_faults_are_seen(tab: Tab, tmp_path: Path) -> None:
    tab.resize(tab.PHONE)
    for body, fault in (
        ("<p>below</p><p style='margin-top: -30px'>above</p>", "'above' and 'below' overlap"),
        ("<p style='margin-left: 350px; white-space: nowrap'>to the right</p>", "'to the right' sticks out"),
        ("<div style='width: 500px'>wide</div>", "the page is wider than the window"),
        ("<p style='font-size: 7px'>tiny</p>", "'tiny' is too small"),
        ("<p style='width: 20px; overflow-wrap: anywhere'>letterbyletter</p>", "'letterbyletter' is broken"),
    ):
        tab.open(written(tmp_path, body))
        assert fault in tab.layout_faults()


def test_text_in_a_part_that_scrolls_may_be_wider_than_the_window(tab: Tab, tmp_path: Path) -> None:
    tab.resize(tab.PHONE)
    long = "<p style='width: 900px; text-align: right'>far away</p>"
    tab.open(written(tmp_path, f"<div tabindex='0' style='overflow-x: auto'>{long}</div>"))
    assert tab.layout_faults() == []


def test_accessibility_faults_are_seen(tab: Tab, tmp_path: Path) -> None:
    body = "<p style='color: #ccc'>pale</p><img src='data:,'><input type='text'><h4>deep</h4>"
    tab.open(written(tmp_path, body))
    found = {fault.partition(":")[0] for fault in tab.accessibility_faults()}
    assert found == {"color-contrast", "image-alt", "label", "heading-order"}


def test_errors_and_what_could_not_be_loaded_are_noted(tab: Tab, tmp_path: Path) -> None:
    body = "<img alt='none' src='none.png'><script>console.error('said'); throw new Error('thrown')</script>"
    tab.open(written(tmp_path, body))
    assert len(tab.broken_images()) == 1
    assert any("said" in error for error in tab.console_errors)
    assert any("thrown" in error for error in tab.console_errors)
    assert any(request.endswith("none.png") for request in tab.failed_requests)
    with pytest.raises(AssertionError):
        tab.assert_clean()


def test_a_page_can_be_used_and_waited_for(tab: Tab, tmp_path: Path) -> None:
    body = """<label for="who">Name</label><input id="who"><label for="file">File</label><input id="file" type="file">
    <button id="say">Say</button><p id="out"></p><script>
      const say = () => out.textContent = `Hello ${who.value}, ${file.files[0].name}`;
      document.getElementById("say").onclick = () => setTimeout(say, 50);
    </script>"""
    path = written(tmp_path, body)
    tab.open(path)
    tab.fill("#who", "you")
    tab.choose_file("#file", path)
    tab.click("#say")
    tab.wait_for_text("Hello", "#out")
    assert tab.text("#out") == "Hello you, page.html"
    assert tab.count("p") == 2
    tab.assert_clean()
