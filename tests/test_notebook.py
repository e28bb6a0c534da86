"""What shows itself: in a notebook as a table, in a terminal as lines, never longer than it is worth."""

from __future__ import annotations

import copy
import doctest
import json
import pickle
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import html5lib
import pytest

import tsm_training.report.notebook
from support import brightening, failing, manager_with, pool_of, put_examples, usual_pool
from tsm_training import TrainingManager, TrainingResults
from tsm_training.analysis import ScoreTable, compare, judge, probability_best
from tsm_training.engine import Validation
from tsm_training.errors import InvalidArgumentError
from tsm_training.report import show
from tsm_training.testing.records import make_session

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingManager, TrainingResults]:
    pool = pool_of(*usual_pool().workers, failing(HOSTILE), brightening("x" * 100, 30))
    manager = manager_with(tmp_path_factory.mktemp("notebook"), examples=20, solver="auto", pool=pool)
    return manager, manager.train(validation_split=0.5, verbose=False)


def text_of(thing: Any) -> str:
    """Return the text that a notebook shows, having made sure that it is text."""
    html = thing._repr_html_()
    tree = html5lib.HTMLParser(namespaceHTMLElements=False).parseFragment(html)
    tags = {element.tag for element in tree.iter()}
    assert "script" not in tags
    assert html.startswith("<div")
    return re.sub(r"\s+", " ", "".join(tree.itertext()))


@pytest.fixture(scope="module")
def documents(trained: tuple[TrainingManager, TrainingResults]) -> dict[str, Any]:
    manager, results = trained
    return {
        "training": results,
        "validation": results["validation"],
        "folds": manager.cross_validate(3),
        "explanation": manager.explain(),
        "progress": manager.get_training_progress(),
    }


def test_sessions_of_all_kinds_show_themselves() -> None:
    running = make_session("s", status="running", end_time=None, final_weights={}, validation=None)
    assert "running" in text_of(running)
    assert "took" not in text_of(running)
    failed = make_session("s", status="failed", error="it broke <b>", is_trial=True, skipped={"a": "b"})
    assert "Trial training session, failed" in text_of(failed)
    assert "errorit broke <b>" in text_of(failed)
    assert "skipped1 example" in text_of(failed)


def test_a_session_shows_itself_word_for_word() -> None:
    start = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
    verdict: Any = {**Validation().verdict, "sentence": "Ship it."}
    trained: Any = {"mean": 0.8125, "mean_delta_e": 2.0, "num_examples": 2, "blend_weights": {"w0": 1.0}}
    weights = {f"w{number}": 1.25 - 0.0625 * number for number in range(8)}
    session = make_session(
        "s",
        status="completed",
        start_time=start,
        end_time=start + timedelta(seconds=2.5),
        num_examples=7,
        validation_ids=("a", "b"),
        validation=Validation(baselines={"trained": trained}, verdict=verdict).to_document(),
        skipped={"a": "gone", "b": "gone"},
        error="none of any weight",
        initial_weights={"w0": 1.0},
        final_weights=dict(reversed(weights.items())) | {"same": 1.25, "tail": 0.5},
    )
    rows = ["same–1.250", "w01.0001.250", *(f"w{number}–{weights[f'w{number}']:.3f}" for number in range(1, 7))]
    assert text_of(session) == (
        "Training session, completed"
        "examples7, held out 2epochs3, learning rate 0.15started2026-05-04 03:02 UTCtook2.5 s"
        "similarity0.812verdictShip it.skipped2 exampleserrornone of any weight"
        + "workerweight beforeafter"
        + "".join(rows)
        + "and 2 more"
    )


def test_a_session_and_an_example_have_short_reprs(trained: tuple[TrainingManager, TrainingResults]) -> None:
    manager, _results = trained
    session = manager.data_manager.get_all_sessions()[-1]
    assert len(repr(session)) < 600
    assert session.session_id in repr(session)
    assert "status='completed'" in repr(session)
    example = attrs.evolve(manager.data_manager.get_all_examples()[0], metadata={"long": "x" * 10_000})
    assert len(repr(example)) < 900
    assert "…" in repr(example)
    assert example.example_id in repr(example)
    longest = {"long": "x" * (120 - len("{'long': ''}"))}
    assert repr(attrs.evolve(example, metadata=longest)).endswith(f"metadata={longest!r})")


def test_a_prediction_shows_its_picture_and_who_made_it(
    trained: tuple[TrainingManager, TrainingResults], tmp_path: Path
) -> None:
    manager, _results = trained
    example = manager.data_manager.get_all_examples()[0]
    prediction = manager.predict(example.source_path, example.target_path, run_all=True)
    text = text_of(prediction)
    assert "Prediction, 16×12 pixels" in text
    assert "near" in text
    assert f"{HOSTILE} failed" in text
    assert 'src="data:image/png;base64,' in prediction._repr_html_()
    assert 'width="16" height="12"' in prediction._repr_html_()
    large = attrs.evolve(prediction, image=prediction.image.repeat(40, axis=0).repeat(40, axis=1))
    assert 'width="320" height="240"' in large._repr_html_()


def test_answers_show_their_sentence_and_their_figures() -> None:
    ids = [f"e{number}" for number in range(12)]
    scores: dict[str, list[float | None]] = {
        "a<b>": [0.8 + 0.01 * (number % 3) for number in range(12)],
        "b": [0.7 + 0.01 * (number % 5) for number in range(12)],
        "c": [None, *[0.6] * 11],
    }
    table = ScoreTable(example_ids=ids, groups=ids, scores=scores)
    compared = compare(table, "a<b>", "b")
    assert compared.sentence in text_of(compared)
    assert "<svg" in compared._repr_html_()
    few = compare(ScoreTable(example_ids=ids[:2], groups=ids[:2], scores={"a": [0.5] * 2, "b": [0.4] * 2}), "a", "b")
    assert "not enough data" in text_of(few)
    assert "<svg" not in few._repr_html_()
    best = probability_best(table)
    assert best.sentence in text_of(best)
    assert "c< 0.011" in text_of(best)
    renamed = attrs.evolve(
        table, scores=dict(zip(("trained", "equal_weights", "untouched"), scores.values(), strict=True))
    )
    verdict = judge(renamed)
    assert verdict.sentence in text_of(verdict)
    assert f"Verdict: {verdict.decision}" in text_of(verdict)
    assert "the untouched target" in text_of(verdict)
    assert len(repr(verdict)) < 6000


def test_results_show_themselves_in_a_terminal(documents: dict[str, Any]) -> None:
    results, text = documents["training"], str(show(documents["training"]))
    assert re.match(r"Training\n  similarity: 0\.\d{3}; the untouched target 0\.\d{3}\n  verdict: ", text)
    assert f"verdict: {results['validation']['verdict']['sentence']} learned from: 10" in re.sub(r"\n +", " ", text)
    for line in (
        r"learned from: 10 examples, 1 epoch",
        r"equal weights +0\.\d{3} +\d+\.\d\d +[+−]?0\.\d{3}.*",
        r"best single worker: near .*",
        r"mean of the workers, weighted \(guide\): 0\.\d{3}, with equal shares 0\.\d{3}",
        r"learning curve: 0\.\d{3} with equal weights, 0\.\d{3} after 10 examples; the guide expects 0\.80 to 0\.85",
    ):
        assert re.search(rf"^  {line}$", text, re.MULTILINE), line
    assert repr(show(results)) == str(results) == text
    assert "in use before" not in text  # equal weights were: they stand there once
    assert len(text.splitlines()) <= 40
    assert "judged on: 10 examples, of which 10 were never learned from" in str(show(documents["validation"]))
    assert "  folds: 3" in str(show(documents["folds"]))
    explained = str(show(documents["explanation"]))
    assert "What each worker brings" in explained
    assert "smallest ensemble that would do: near" in explained
    assert max(len(line) for line in explained.splitlines()) < 120
    assert "  sessions: 1" in str(show(documents["progress"]))


@pytest.mark.parametrize(
    ("loss", "words"),
    [(0.0123, "near; loses 0.0123"), (-0.0051, "near; gains 0.0051"), (0.00004, "near; loses nothing")],
)
def test_a_loss_below_nothing_is_a_gain(loss: float, words: str) -> None:
    subset = {"workers": ["near"], "loss": loss, "seconds_saved": 0.0}
    document: Any = {"num_examples": 3, "ensemble_accuracy": 0.8, "workers": {}, "subset": subset}
    assert f"smallest ensemble that would do: {words}\n" in f"{show(document)}\n"


def test_an_interval_is_promised_only_where_there_is_one(
    trained: tuple[TrainingManager, TrainingResults], documents: dict[str, Any]
) -> None:
    manager, _results = trained
    few = manager.validate([manager.data_manager.get_all_examples()[0].example_id])
    assert "gain of the trained ensemble, 90 % interval" in str(show(documents["folds"]))
    assert "90 % interval" not in str(show(few))


def test_results_show_themselves_in_a_notebook(documents: dict[str, Any]) -> None:
    for document in documents.values():
        text = text_of(show(document))
        assert "near" in text or "equal weights" in text
    assert HOSTILE in text_of(show(documents["explanation"]))


def test_results_are_the_dictionaries_that_they_were(documents: dict[str, Any]) -> None:
    for document in documents.values():
        plain = copy.deepcopy(dict(document))
        assert document == plain
        assert json.dumps(document) == json.dumps(plain)
        assert pickle.loads(pickle.dumps(document)) == plain
        assert str(document) == str(show(plain))
        assert document._repr_html_() == show(plain)._repr_html_()


def test_workers_that_do_not_repeat_themselves_are_named() -> None:
    text = str(show(Validation(unrepeatable={"wavering": 0.0123}).to_document()))
    assert "do not repeat themselves: wavering (accuracy moved by up to 0.012)" in text
    assert "repeat" not in str(show(Validation().to_document()))


def test_a_manager_shows_what_it_is(trained: tuple[TrainingManager, TrainingResults], tmp_path: Path) -> None:
    manager, results = trained
    for text in (str(manager).replace("\n    ", " "), text_of(manager)):
        assert "20" in text
        assert "on 10 examples" in text
        assert results["validation"]["verdict"]["sentence"] in text
    fresh = str(manager_with(tmp_path))
    assert "last training: none yet" in fresh
    assert "similarity" not in fresh


def test_results_without_figures_show_themselves(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=2)
    results = manager.train(validation_split=0.0, verbose=False)
    assert str(results).startswith("Training\n  verdict: Collect at least 8")
    assert str(results).endswith(
        "\n  learned from: 2 examples, 1 epoch\n  judged on: 0 examples, of which 0 were never learned from"
    )
    broken = manager.data_manager.get_all_examples()[0]
    Path(broken.target_path).unlink()
    put_examples(manager.data_manager, attrs.evolve(broken, files=None))
    assert "skipped: 1 example" in str(show(manager.validate()))


@pytest.mark.parametrize("nothing", [None, {}, {"a": 1}, 5, make_session("s")])
def test_other_things_cannot_be_shown(nothing: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="results must be what train"):
        show(nothing)


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(tsm_training.report.notebook).failed == 0
