"""Verdicts: ship, don't ship, or collect more."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tsm_training.analysis import (
    COMPARED,
    MIN_EXAMPLES,
    Baseline,
    ScoreTable,
    Verdict,
    compare,
    examples_for_half_width,
    judge,
)
from tsm_training.errors import InvalidArgumentError

SPREADS = (0.02, -0.02)
OTHER_SPREADS = (0.02, 0.02, -0.02, -0.02)
CLEARLY = 0.05
"""A difference beyond doubt, given these spreads and 20 targets."""


def column(offset: float, n: int = 20, spreads: Sequence[float] = (0.0,)) -> list[float]:
    return [0.5 + offset + spreads[i % len(spreads)] for i in range(n)]


def table(n: int = 20, **columns: Sequence[float | None]) -> ScoreTable:
    """Return a table in which, unless said otherwise, the trained ensemble is better than all others beyond doubt."""
    scores: dict[str, Sequence[float | None]] = {
        "trained": column(0.0, n, SPREADS),
        "previous": column(-CLEARLY, n),
        "equal_weights": column(-CLEARLY, n, OTHER_SPREADS),
        "best_single": column(-CLEARLY, n, OTHER_SPREADS),
        "untouched": column(-CLEARLY, n, OTHER_SPREADS),
        "control": column(-0.3, n),
        **columns,
    }
    ids = [f"example {number}" for number in range(n)]
    return ScoreTable(ids, [f"target {number}" for number in range(n)], scores)


def without(made: ScoreTable, *names: str) -> ScoreTable:
    kept = {name: scores for name, scores in made.scores.items() if name not in names}
    return ScoreTable(made.example_ids, made.groups, kept)


def said(verdict: Verdict) -> tuple[str, str]:
    return verdict.decision, verdict.sentence


# --- the rule, part by part -----------------------------------------------------------------------------------------


def test_what_is_better_than_all_others_is_shipped() -> None:
    verdict = judge(table())
    assert said(verdict) == (
        "ship",
        "Ship: the trained ensemble is better than the ensemble in use by 0.050 (90 % interval 0.042 to 0.058, "
        "20 targets; P > 0.99) and better than the ensemble with equal weights, the best single worker and the "
        "untouched target.",
    )
    assert (verdict.more, verdict.in_use, verdict.n, verdict.num_examples) == (None, "previous", 20, 20)


def test_what_equals_a_simpler_answer_is_shipped_and_says_so() -> None:
    verdict = judge(table(best_single=column(-0.001, 20, (0.025, -0.023)), best_fixed=column(-0.004, 20)))
    assert verdict.decision == "ship"
    assert verdict.sentence.endswith(
        ", better than the ensemble with equal weights and the untouched target, practically equal to the best single "
        "worker and not practically worse than the best fixed worker."
    )


def test_workers_that_compete_alone_are_named_by_their_ids() -> None:
    verdict = judge(table(best_fixed=column(-0.06, 20)), best_single="learned_look", best_fixed="mean_std")
    assert "the best single worker (learned_look), the best fixed worker (mean_std) and" in verdict.sentence
    assert (verdict.to_dict()["best_single"], verdict.to_dict()["best_fixed"]) == ("learned_look", "mean_std")
    assert "best single worker (learned_look)" in verdict._repr_html_()
    assert judge(table()).to_dict()["best_single"] is None


# --- doing nothing --------------------------------------------------------------------------------------------------

LEAVE = "Leave pictures as they are: the trained ensemble "


@pytest.mark.parametrize(
    ("untouched", "decision", "words"),
    [
        (
            column(0.0, 20, SPREADS),
            "no gain",
            "and the untouched target score alike on all 20 targets. What may help: ",
        ),
        (column(0.02, 20), "no gain", "is worse than the untouched target by 0.020 (90 % interval 0.012 to 0.028, "),
        (column(-0.001, 20, (0.021, -0.021)), "no gain", "and the untouched target are practically equal, "),
        (column(0.0, 20), "no gain", ""),  # undecided, and the difference is none
        (column(0.003, 20), "no gain", ""),  # undecided, and the difference is against it
        (column(-0.004, 20), "collect more", ""),  # undecided, but more examples may show a gain
        (column(-CLEARLY, 20), "ship", ""),
        ([*column(0.02, 7), *[None] * 13], "ship", ""),  # too few pictures to say
    ],
)
def test_only_what_beats_the_untouched_target_is_shipped(
    untouched: Sequence[float | None], decision: str, words: str
) -> None:
    verdict = judge(table(untouched=untouched))
    assert verdict.decision == decision
    assert (verdict.more is not None) == (decision == "collect more")
    assert words in verdict.sentence
    assert verdict.sentence.startswith("Leave pictures as they are: ") == (decision == "no gain")


def test_no_gain_is_decided_against_the_untouched_target_alone() -> None:
    idle = {"trained": column(0.0, 20, SPREADS), "untouched": column(0.0, 20, SPREADS)}
    for others in (
        {"control": column(0.0, 20)},
        {"previous": idle["trained"]},
        {"best_single": column(0.2, 20)},
        {"previous": [None] * 20, "equal_weights": [None] * 20},
    ):
        assert judge(table(**{**idle, **others})).decision == "no gain"


def test_without_enough_pictures_of_what_is_in_use_a_gain_over_doing_nothing_is_not_enough() -> None:
    assert judge(table(previous=[None] * 20)).decision == "collect more"


def test_a_gain_over_what_is_in_use_but_not_yet_over_the_untouched_target_asks_for_more() -> None:
    verdict = judge(table(untouched=column(-0.006, 20)))
    assert verdict.sentence.startswith(
        "Collect about 60 more examples to judge by, each with a different target image: "
    )
    assert ", but it is undecided whether the trained ensemble or the untouched target is better, " in verdict.sentence


@pytest.mark.parametrize(
    ("columns", "loser"),
    [
        ({"previous": column(0.002, 20)}, "the ensemble in use"),
        ({"best_single": column(0.006, 20)}, "the best single worker"),
    ],
)
def test_where_the_difference_speaks_against_it_more_examples_are_not_asked_for(
    columns: dict[str, list[float]], loser: str
) -> None:
    verdict = judge(table(**columns))
    assert (verdict.decision, verdict.more) == ("don't ship", None)
    assert verdict.sentence.startswith(
        f"Don't ship: it is undecided whether the trained ensemble or {loser} is better, the difference is -0.00"
    )
    assert verdict.sentence.endswith("). More examples would hardly help.")


DIFFERENCES = st.lists(st.integers(-100, 100).map(lambda number: number / 1000), min_size=1, max_size=24)


@settings(max_examples=60)
@given(DIFFERENCES, DIFFERENCES, st.sampled_from([0.0, 0.005, 0.05]))
def test_whatever_is_shipped_is_better_than_the_untouched_target(
    over_use: list[float], over_nothing: list[float], rope: float
) -> None:
    n = min(len(over_use), len(over_nothing))
    trained = column(0.0, n, SPREADS)
    made = table(
        n,
        previous=[a - b for a, b in zip(trained, over_use, strict=False)],
        untouched=[a - b for a, b in zip(trained, over_nothing, strict=False)],
    )
    verdict = judge(made, rope=rope)
    untouched = verdict.comparisons["untouched"]
    if verdict.decision == "ship":
        assert untouched.conclusion == "better"
        assert untouched.mean_difference is not None
        assert untouched.mean_difference > 0
    if verdict.decision == "collect more" and n >= MIN_EXAMPLES:
        assert (untouched.mean_difference or 0) > 0
        assert (verdict.comparisons["previous"].mean_difference or 0) > 0


@settings(max_examples=30)
@given(st.lists(st.integers(300, 700).map(lambda number: number / 1000), max_size=24), st.floats(0.0, 0.5))
def test_an_ensemble_that_does_nothing_is_never_shipped(scores: list[float], rope: float) -> None:
    verdict = judge(table(len(scores), trained=scores, untouched=scores), rope=rope)
    assert verdict.decision == ("no gain" if len(scores) >= MIN_EXAMPLES else "collect more")


# --- the rule, part by part, in its order ---------------------------------------------------------------------------


def test_below_the_least_number_of_targets_there_is_no_verdict() -> None:
    verdict = judge(table(MIN_EXAMPLES - 1))
    assert said(verdict) == (
        "collect more",
        "Collect at least 1 more example to judge by, with a different target image: not enough data to compare the "
        "trained ensemble with the ensemble in use: 7 targets with pictures of both, at least 8 are needed.",
    )
    assert verdict.more == 1
    assert judge(table(3)).sentence.startswith("Collect at least 5 more examples to judge by, ")


@pytest.mark.parametrize(("n", "more"), [(MIN_EXAMPLES, 8), (12, 4)])
def test_below_twenty_targets_great_losses_may_be_hidden(n: int, more: int) -> None:
    verdict = judge(table(n))
    assert (verdict.decision, verdict.more) == ("collect more", more)  # 0.05 is above 0.75 / 16
    assert verdict.sentence.endswith("; P > 0.99), but fewer than 20 targets may hide rare and great losses.")
    assert judge(table(n + more)).decision == "ship"
    far = {name: column(-0.1, n, OTHER_SPREADS) for name in ("previous", "equal_weights", "best_single", "untouched")}
    assert judge(table(n, **far)).decision == "ship"


def test_the_gain_that_is_not_shown_yet_is_named() -> None:
    verdict = judge(table(untouched=column(-0.01, 20)))
    assert verdict.sentence.startswith(
        "Collect about 12 more examples to judge by, each with a different target image: "
    )
    assert "is better than the untouched target by 0.010 " in verdict.sentence
    assert verdict.sentence.endswith(", but that is not enough to hold however often you look.")


def test_a_gain_that_one_look_would_find_is_not_enough_for_many() -> None:
    verdict = judge(table(previous=column(-0.01, 20)))
    assert verdict.comparisons["previous"].conclusion == "better"
    assert (verdict.decision, verdict.more) == ("collect more", 12)
    assert verdict.sentence.endswith("; P = 0.97), but that is not enough to hold however often you look.")
    assert judge(table(32, previous=column(-0.01, 32))).decision == "ship"  # as many as were asked for


def test_the_power_stands_beside_the_decision() -> None:
    verdict = judge(table(previous=column(-0.006, 40), n=40))
    assert verdict.detectable is not None
    assert judge(table(previous=column(-verdict.detectable, 40), n=40)).decision == "ship"
    assert verdict.detectable == pytest.approx(0.011, abs=0.001)
    assert verdict.to_dict()["detectable"] == verdict.detectable
    assert judge(table(7)).detectable is None


def test_many_examples_of_one_target_are_one() -> None:
    made = table()
    verdict = judge(ScoreTable(made.example_ids, ["the same"] * 20, made.scores))
    assert (verdict.decision, verdict.more, verdict.n, verdict.num_examples) == ("collect more", 7, 1, 20)


def test_nothing_at_all_asks_for_the_least_number() -> None:
    assert judge(table(0)).more == MIN_EXAMPLES


def test_pictures_that_look_like_any_truth_are_not_shipped() -> None:
    verdict = judge(table(control=column(-0.0085, 20)))
    assert said(verdict) == (
        "don't ship",
        "Don't ship: nothing shows that a picture agrees better with its own ground truth than with another "
        "example's, the difference is 0.009 (90 % interval 0.000 to 0.017, 20 targets; P = 0.95 for its own).",
    )
    assert verdict.relation is not None
    assert verdict.relation.conclusion == "better"  # which is not enough here
    assert judge(table(control=column(-0.01, 20))).decision == "ship"


def test_without_a_control_the_relation_is_not_checked() -> None:
    for made in (without(table(), "control"), table(control=[None] * 20), table(control=[*[0.9] * 7, *[None] * 13])):
        assert judge(made).decision == "ship"
    assert judge(without(table(), "control")).relation is None


def test_an_ensemble_that_has_lost_pictures_is_not_shipped() -> None:
    scores: list[float | None] = [None, None, *column(0.0, 20, SPREADS)]
    assert said(judge(table(22, trained=scores))) == (
        "don't ship",
        "Don't ship: the trained ensemble gave no picture on 2 examples, the ensemble in use on none.",
    )
    previous: list[float | None] = [None, *column(-CLEARLY, 21)]
    assert judge(table(22, trained=scores, previous=previous)).sentence.endswith(
        " 2 examples, the ensemble in use on 1."
    )
    previous[1] = None
    assert judge(table(22, trained=scores, previous=previous)).decision == "ship"


def test_what_scores_exactly_as_before_is_no_change() -> None:
    verdict = judge(table(previous=column(0.0, 20, SPREADS)))
    assert said(verdict) == (
        "don't ship",
        "Don't ship: nothing has changed, the trained ensemble scores as the ensemble in use on all 20 targets.",
    )


@pytest.mark.parametrize("baseline", ["equal_weights", "best_single", "best_fixed"])
def test_what_is_worse_than_a_baseline_beyond_doubt_is_not_shipped(baseline: str) -> None:
    verdict = judge(table(**{baseline: column(0.02, 20)}))
    figures = "0.020 (90 % interval 0.012 to 0.028, 20 targets; P > 0.99)"
    assert said(verdict) == (
        "don't ship",
        f"Don't ship: the trained ensemble is worse than {Baseline(baseline).phrase} by {figures}.",
    )


def test_of_several_that_are_better_the_best_is_named() -> None:
    verdict = judge(table(best_single=column(0.02, 20), best_fixed=column(0.1, 20), equal_weights=column(0.05, 20)))
    assert verdict.sentence.startswith("Don't ship: the trained ensemble is worse than the best fixed worker by 0.100 ")


def test_what_is_practically_equal_to_what_is_in_use_is_not_shipped() -> None:
    verdict = judge(table(previous=[score - 0.002 for score in column(0.0, 20, (0.021, -0.021))]))
    assert verdict.decision == "don't ship"
    assert verdict.sentence.startswith(
        "Don't ship: the trained ensemble and the ensemble in use are practically equal, the difference is 0.002 ("
    )


def test_what_is_worse_than_what_is_in_use_is_not_shipped() -> None:
    verdict = judge(table(previous=column(0.012, 20)))
    assert verdict.decision == "don't ship"
    assert verdict.sentence.startswith("Don't ship: the trained ensemble is worse than the ensemble in use by 0.012 ")


def test_what_is_undecided_asks_for_at_most_three_times_as_many_more() -> None:
    verdict = judge(table(previous=column(-0.006, 20)))
    assert said(verdict) == (
        "collect more",
        "Collect about 60 more examples to judge by, each with a different target image: it is undecided whether the "
        "trained ensemble or the ensemble in use is better, the difference is 0.006 (90 % interval -0.002 to 0.014, "
        "20 targets; P = 0.89 that it is the trained ensemble).",
    )
    assert verdict.more == 60


def test_what_may_be_worse_than_a_baseline_asks_for_more() -> None:
    verdict = judge(table(best_single=column(0.0, 20), best_fixed=column(0.001, 20)))
    assert verdict.decision == "collect more"
    assert verdict.sentence.endswith(
        " by 0.050 (90 % interval 0.042 to 0.058, 20 targets; P > 0.99), but may be practically worse than the "
        "best fixed worker (P = 0.80 that it is not)."
    )


@pytest.mark.parametrize(
    ("offset", "decision"),
    [(0.004, "collect more"), (0.02, "don't ship"), (-0.004, "ship")],
)
def test_a_wider_region_of_practical_equivalence_forgives_more(offset: float, decision: str) -> None:
    made = table(best_single=column(offset, 20))
    assert judge(made).decision == decision
    assert judge(made, rope=0.04).decision == "ship"


def test_without_a_region_a_tie_with_a_baseline_is_still_none_the_worse() -> None:
    made = table(best_single=column(0.0, 20, SPREADS))
    assert judge(made, rope=0.0).decision == "ship"
    assert judge(table(best_single=column(0.0, 20)), rope=0.0).decision == "collect more"


# --- who is compared ------------------------------------------------------------------------------------------------


def test_where_nothing_was_learned_before_equal_weights_are_in_use() -> None:
    verdict = judge(without(table(), "previous"))
    assert (verdict.decision, verdict.in_use) == ("ship", "equal_weights")
    assert verdict.sentence.startswith(
        "Ship: the trained ensemble is better than the ensemble with equal weights by 0.050 (90 % interval 0.039 to "
    )
    assert set(verdict.comparisons) == {"equal_weights", "best_single", "untouched"}


def test_a_baseline_that_scores_as_what_is_in_use_is_named_once() -> None:
    verdict = judge(table(previous=column(-CLEARLY, 20, OTHER_SPREADS)))
    assert "equal weights" not in verdict.sentence
    assert verdict.comparisons["equal_weights"].mean_difference == verdict.comparisons["previous"].mean_difference


def test_two_alone_are_enough() -> None:
    verdict = judge(without(table(), "equal_weights", "best_single", "untouched", "control"))
    assert verdict.decision == "ship"
    assert verdict.sentence.endswith("; P > 0.99).")


def test_a_baseline_with_too_few_pictures_decides_nothing() -> None:
    few = [*column(0.3, 7), *[None] * 13]
    verdict = judge(table(best_single=few))
    assert verdict.decision == "ship"
    assert "single" not in verdict.sentence
    assert verdict.comparisons["best_single"].conclusion == "not enough data"
    assert verdict.comparisons["best_single"].failures_b == 13


@pytest.mark.parametrize(
    "names",
    [("trained",), ("previous", "equal_weights"), (*COMPARED, Baseline.TRAINED, Baseline.CONTROL)],
    ids=["nothing trained", "nothing in use", "nothing"],
)
def test_a_table_without_the_columns_that_must_be_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgumentError, match="scores must be columns with the names 'trained', at least one of"):
        judge(without(table(), *names))


def test_a_column_that_nobody_knows_is_refused() -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"'best_single', 'best_fixed', 'untouched' and 'control', got \[.*'equal_weight',"
    ):
        judge(table(equal_weight=column(0.0, 20)))


def test_a_region_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        judge(table(), rope=1.0)
    assert caught.value.argument == "rope"


# --- what a verdict holds -------------------------------------------------------------------------------------------


def test_the_comparisons_are_those_that_can_be_asked_for() -> None:
    made = table()
    verdict = judge(made, rope=0.01)
    assert verdict.comparisons == {
        name: compare(made, "trained", str(name), rope=0.01) for name in COMPARED if name in made.scores
    }
    assert verdict.relation == compare(made, "trained", "control", rope=0.01)
    assert verdict.rope == 0.01


@pytest.mark.parametrize(
    "made", [table(), table(3, best_single=[None] * 3), without(table(previous=column(-0.006)), "control")]
)
def test_a_verdict_can_be_kept_as_json_and_as_a_pickle(made: ScoreTable) -> None:
    verdict = judge(made)
    document = verdict.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["comparisons"] == {name: found.to_dict() for name, found in verdict.comparisons.items()}
    assert document["relation"] == (None if verdict.relation is None else verdict.relation.to_dict())
    assert (document["decision"], document["sentence"]) == (verdict.decision, str(verdict))
    assert (document["more"], document["in_use"], document["rope"]) == (verdict.more, "previous", 0.005)
    assert (document["n"], document["num_examples"]) == (verdict.n, verdict.num_examples)
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    assert [(row["example_id"], row["group"]) for row in verdict.per_example] == list(
        zip(made.example_ids, made.groups, strict=True)
    )
    assert verdict.per_example[2]["scores"] == {name: scores[2] for name, scores in made.scores.items()}


SCORES = st.integers(400, 600).map(lambda number: number / 1000)
NAMES = ("trained", "previous", "equal_weights", "best_single", "untouched", "control")


@settings(max_examples=40)
@given(st.lists(st.tuples(*[SCORES] * len(NAMES)), min_size=1, max_size=16), st.randoms(use_true_random=False))
def test_the_order_of_examples_changes_no_verdict(rows: list[tuple[float, ...]], shuffler: random.Random) -> None:
    def verdict(examples: Sequence[int]) -> Verdict:
        names = [str(number) for number in examples]
        scores = zip(*(rows[number] for number in examples), strict=True)
        return judge(ScoreTable(names, names, dict(zip(NAMES, scores, strict=True))))

    order = list(range(len(rows)))
    straight = verdict(order)
    shuffler.shuffle(order)
    shuffled = verdict(order)
    assert said(shuffled) == said(straight)
    assert shuffled.comparisons == straight.comparisons
    assert (straight.more is not None) == (straight.decision == "collect more")


# --- how many more --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [*range(2, 14), 20, 37, 60, 100, 1000])
def test_the_number_wanted_is_the_smallest_that_halves_the_interval(n: int) -> None:
    def width(number: int) -> float:
        return float(stats.t.ppf(0.95, number - 1)) / math.sqrt(number)

    found = examples_for_half_width(n)
    assert width(found) <= width(n) / 2.0 < width(found - 1)


@pytest.mark.parametrize("n", [1, 0, -3, True, 8.0, None])
def test_a_number_that_gives_no_interval_is_refused(n: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="n must be a whole number of at least 2, got "):
        examples_for_half_width(n)
