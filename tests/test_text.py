"""Figures are written as people read them, and never say more than is known."""

from __future__ import annotations

import pytest

from tsm_training.text import (
    counted,
    did_you_mean,
    difference_text,
    figure_text,
    listed,
    percent_text,
    probability_text,
    seconds_text,
    shares_text,
)


@pytest.mark.parametrize(
    ("value", "settings", "text"),
    [
        (None, {}, "–"),
        (0.12345, {}, "0.123"),
        (-0.5, {}, "−0.500"),
        (0.5, {"signed": True}, "+0.500"),
        (-0.00001, {"signed": True}, "0.000"),
        (0.12345, {"digits": 4}, "0.1235"),
    ],
)
def test_figures_have_fixed_digits(value: float | None, settings: dict[str, object], text: str) -> None:
    assert figure_text(value, **settings) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "precision", "text"),
    [
        (0.0123, 0.008, "0.012"),
        (0.0123, 0.5, "0.012"),
        (0.01234, 0.0004, "0.0123"),
        (0.012345678, 2e-6, "0.012346"),
        (0.25, 1e-17, "0.250"),
        (-0.0001, 0.01, "0.000"),
        (0.00004, 0.0, "0.00004"),
        (0.0, 0.0, "0.000"),
    ],
)
def test_a_difference_has_the_digits_that_it_is_worth(value: float, precision: float, text: str) -> None:
    assert difference_text(value, precision) == text


@pytest.mark.parametrize(
    ("value", "text", "sentence"),
    [
        (None, "–", "–"),
        (0.0, "< 0.01", "P < 0.01"),
        (0.01, "0.01", "P = 0.01"),
        (0.6199, "0.61", "P = 0.61"),
        (0.9499, "0.94", "P = 0.94"),
        (0.99, "0.99", "P = 0.99"),
        (0.9901, "> 0.99", "P > 0.99"),
        (1.0, "> 0.99", "P > 0.99"),
    ],
)
def test_a_probability_never_looks_greater_than_it_is(value: float | None, text: str, sentence: str) -> None:
    assert (probability_text(value), probability_text(value, "P")) == (text, sentence)


def test_intervals_shares_and_times() -> None:
    assert figure_text(0.05, signed=True, ends=(-0.1, 0.25)) == "+0.050 (−0.100 to +0.250)"
    shares = {None: "–", 0.0: "0 %", 0.0009: "0 %", 0.001: "< 1 %", 0.0049: "< 1 %", 0.005: "0 %", 1.0: "100 %"}
    assert {share: percent_text(share) for share in shares} == shares
    assert [seconds_text(value) for value in (None, 0.0124, 1.0, 75.25)] == ["–", "12 ms", "1.0 s", "75.2 s"]
    assert shares_text({"a": 0.25, "b": 0.7496, "c": 0.0004}) == "b 75 %, a 25 %"


def test_numbers_and_names_are_written_in_english() -> None:
    assert [counted(number, "target") for number in (0, 1, 2)] == ["0 targets", "1 target", "2 targets"]
    assert [listed(list(names)) for names in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


@pytest.mark.parametrize(
    ("value", "said"),
    [("unchagned", "; did you mean 'unchanged'?"), ("UNCHANGED", "; did you mean 'unchanged'?"), ("zzz", ""), (5, "")],
)
def test_a_slip_of_the_pen_is_recognised(value: object, said: str) -> None:
    assert did_you_mean(value, ["white_balance", "unchanged"]) == said
