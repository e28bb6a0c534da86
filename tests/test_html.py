"""HTML that is built, not glued: what comes from outside is text, whatever it holds; charts stay inside."""

from __future__ import annotations

import re
from typing import Any

import html5lib
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.report.charts import Scale, Series, axis, interval_bar, legend, line_chart
from tsm_training.report.tags import Markup, breakable, image, joined, table, tag

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(markup: str) -> Any:
    page = f"<!DOCTYPE html><html lang=en><head><title>x</title></head><body>{markup}</body></html>"
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page).find("body")


def shown_in(element: Any) -> str:
    return "".join(element.itertext())


@settings(max_examples=60)
@given(st.text() | st.text("<>&'\"/;=a\x00\x1f\ud800"))
def test_any_text_comes_back_as_text_and_a_name_may_break_without_changing(text: str) -> None:
    whole, name = parsed(joined(tag("p", text, title=text), tag("p", breakable(text))))
    expected = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    assert shown_in(whole) == whole.get("title") == shown_in(name) == expected
    assert list(whole) == []
    assert {child.tag for child in name} <= {"wbr"}


def test_finished_markup_is_not_escaped_twice_and_shows_itself() -> None:
    inner = tag("b", "<")
    assert tag("p", inner, None, 5, ["a", [inner]]) == "<p><b>&lt;</b>5a<b>&lt;</b></p>"
    assert inner._repr_html_() == inner.__html__() == "<b>&lt;</b>"
    assert type(inner._repr_html_()) is str
    assert isinstance(joined("a"), Markup)


def test_attributes_may_be_left_out_and_have_hyphens() -> None:
    assert tag("p", class_="a b", aria_label='say "x"', id=None) == '<p class="a b" aria-label="say &quot;x&quot;"></p>'
    assert tag("br") == "<br>"


def test_an_endless_text_is_cut() -> None:
    assert len(tag("p", "x" * 10_000)) < 2100


def test_pictures_have_their_address_in_full() -> None:
    shown = image("data:image/png;base64," + "A" * 5000, 'a "picture"', 3, 4)
    assert shown.startswith('<img alt="a &quot;picture&quot;" width="3" height="4" src="data:')
    assert "A" * 5000 in shown


def test_tables_name_their_rows_and_columns() -> None:
    shown = table("words", {"a": "", "b": "number"}, [["x", "1"]])
    assert shown == (
        '<table><caption>words</caption><thead><tr><th scope="col">a</th><th scope="col" class="number">b</th>'
        '</tr></thead><tbody><tr><th scope="row">x</th><td class="number">1</td></tr></tbody></table>'
    )


# --- charts -----------------------------------------------------------------------------------------------------------


@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_a_scale_holds_its_values_and_a_few_round_ticks(values: list[float]) -> None:
    scale = Scale.of(values)
    assert scale.low < scale.high
    assert all(0.0 <= scale.place(value) <= 1.0 for value in values)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    slack = 1e-6 * (scale.high - scale.low) + 1e-9
    assert all(scale.low - slack <= tick <= scale.high + slack for tick in ticks)


def percents(markup: str) -> list[float]:
    return [float(number) for number in re.findall(r'(?:x1|x2|y1|y2|cx|cy|x|width)="(-?[\d.]+)%"', markup)]


@settings(max_examples=30)
@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_bar_and_the_numbers_above_it_stay_in_their_places(low: float, middle: float, high: float) -> None:
    scale = Scale.of([low, middle, high])
    bar, numbers = interval_bar(scale, middle, (low, high), reference=middle), axis(scale, "a scale")
    assert all(0.0 <= part <= 100.0 for part in percents(bar + numbers))
    assert bar.count("<circle") == 1
    assert "<text" in numbers
    parsed(bar)
    parsed(numbers)


def test_a_bar_may_have_no_interval_and_no_reference() -> None:
    scale = Scale(0.0, 1.0)
    assert "<line" not in interval_bar(scale, 0.5, None)
    assert "<rect" not in interval_bar(scale, 0.5, None, reference=0.5)
    assert 'width="20.00%"' in interval_bar(scale, 0.5, None, reference=0.5, band=0.1)


def test_a_chart_draws_every_line_and_says_what_it_shows() -> None:
    series = [
        Series("one", [(1, 0.5), (2, 0.7)], "red", bands=[[(1, 0.4, 0.6), (2, 0.6, 0.8)]]),
        Series("<two>", [(1, 0.2), (2, 0.2)], "blue", dashes="2 4"),
        Series("quiet", [(1, 0.3), (2, 0.3)], "grey", is_quiet=True),
    ]
    chart = line_chart(series, "two lines & one", "epoch")
    assert chart.count("<polyline") == 3
    assert chart.count("<polygon") == 1
    assert chart.count("<circle") == 4
    assert 'aria-label="two lines &amp; one"' in chart
    assert chart.index('stroke="grey"') < chart.index('stroke="red"')  # the quiet ones lie below
    assert re.findall(r">([^<>]+)</text>", chart) == ["0.2", "0.4", "0.6", "0.8", "1", "2", "epoch"]
    width, height = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart)[0])
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', chart) + re.findall(r"([\d.]+),([\d.]+)", chart)
    assert all(0.0 < float(x) < width and 0.0 < float(y) < height for x, y in places)
    assert "style=" not in chart + legend(series)  # a page may forbid styles that are not its own
    assert "&lt;two&gt;" in legend(series)
    parsed(chart)
    parsed(legend(series))


def test_a_chart_of_one_point_is_drawn() -> None:
    parsed(line_chart([Series("one", [(1, 0.5)], "red")], "a point", "epoch"))
