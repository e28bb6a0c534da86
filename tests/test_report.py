"""The report: one page that needs nothing else, on which everything is there and can be read; and what shows itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import html5lib
import pytest

from support import brightening, manager_with, pool_of, put_examples, save_triple, usual_pool
from tsm_training import (
    BayesianWeightLearner,
    FunctionWorker,
    GuideSimilarity,
    InMemoryStore,
    TrainingEngine,
    TrainingManager,
    WorkerPool,
)
from tsm_training.data import SessionCommit
from tsm_training.errors import ExampleNotFoundError, InvalidArgumentError, MetricError
from tsm_training.lint import LintFinding, LintReport
from tsm_training.report import growth_chart, leaderboard_table, report_page, show, write_report
from tsm_training.testing.records import make_session
from tsm_training.text import figure_text, probability_text

if TYPE_CHECKING:
    from browser import Tab

pytest_plugins = ["browser"]

HOSTILE = "<script>alert('x')</script> & \"co\""
LONG = "a_worker_whose_name_tells_everything_that_it_does_and_then_something_more_in_version_12345"
TITLE = "<i>Fig & Olive</i>, autumn"
MESSAGE = "<img src=x onerror=alert(2)> is too dark"
BASELINES = ("trained ensemble", "equal weights", "in use before", "untouched target")
HEADINGS = [
    "Are these weights worth shipping?",
    "Leaderboard",
    "Learning curve",
    "Pictures: where the ensemble was worst and best",
    "The last trainings",
    "The dataset",
    "Failures",
    "Settings and versions",
]
PHONE = (390, 844)
MOMENT = datetime(2026, 5, 4, 3, 2, tzinfo=UTC)


def found(*findings: LintFinding) -> LintReport:
    return LintReport(findings, num_examples=13, num_compared=13)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def manager(folder: Path) -> Iterator[TrainingManager]:
    """A manager that was trained twice: one worker fails always, and one picture is gone at the second training."""

    def broken(_source: Any, _target: Any) -> Any:
        raise RuntimeError(MESSAGE)

    pool = pool_of(
        *usual_pool().workers,
        FunctionWorker(HOSTILE, broken, version="1"),
        brightening(LONG, 35),
    )
    manager = manager_with(folder, examples=0, solver="auto", pool=pool)
    manager.add_training_examples([save_triple(folder, seed, size=(60, 80)) for seed in range(26)])
    manager.train(num_examples=13, validation_split=0.4, verbose=False)
    gone = manager.data_manager.get_all_examples()[3]
    Path(gone.source_path).unlink()
    put_examples(manager.data_manager, attrs.evolve(gone, files=None))
    manager.train(epochs=3, validation_split=0.4, verbose=False)
    with manager:
        yield manager


@pytest.fixture(scope="module")
def page(manager: TrainingManager, folder: Path) -> str:
    gone = LintFinding(
        "missing_file", f"{folder}/target_1.png is <b>gone</b>", "Relink it.", f"manager.relink('{folder}/new')"
    )
    text = report_page(manager.training_engine, title=TITLE, findings=found(gone))
    write_report(folder / "report.html", text)
    return text


@pytest.fixture(scope="module")
def tree(page: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def said(element: Any) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def parsed(text: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_everything_is_on_the_page_in_order(tree: Any, manager: TrainingManager) -> None:
    body = tree.find("body")
    assert [said(h1) for h1 in body.iter("h1")] == [TITLE]
    assert said(tree.find("head/title")) == TITLE
    assert [said(h2) for h2 in body.iter("h2")] == HEADINGS
    session = manager.data_manager.get_all_sessions()[-1]
    assert session.validation is not None
    first = next(body.iter("section"))
    assert session.validation["verdict"]["sentence"] in said(first)


def test_a_page_is_small_and_valid_html_whose_ids_are_different(tree: Any, page: str) -> None:
    assert len(page.encode()) < 1_000_000
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    ids = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for section in tree.iter("section"):
        assert section.get("aria-labelledby") in ids or section.get("aria-label")
    for table in tree.iter("table"):
        assert said(table.find("caption"))
        assert {cell.get("scope") for cell in table.iter("th")} == {"col", "row"}
    for image in tree.iter("img"):
        assert image.get("alt")
        assert image.get("src").startswith("data:image/webp;base64,")


def test_what_comes_from_outside_is_text_and_tells_no_folder(tree: Any, page: str, folder: Path) -> None:
    assert {element.tag for element in tree.iter()}.isdisjoint({"script", "i", "b", "link", "iframe", "object", "a"})
    assert not [name for element in tree.iter() for name in element.attrib if name.startswith("on")]
    text = said(tree.find("body"))
    assert "Relink it. manager.relink('new')" in text
    for hostile in (HOSTILE, MESSAGE, "<b>gone</b>", TITLE):
        assert hostile in text
    assert "://" not in re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", page)
    assert str(folder) not in page
    assert "target_1.png" in page


def test_messages_lose_their_folders_and_nothing_else(tmp_path: Path) -> None:
    class AtTheRoot(InMemoryStore):
        @property
        def location(self) -> str:
            return "/training.db"

    def broken(_source: Any, _target: Any) -> Any:
        raise OSError("cannot read /opt/secret/models/look.bin or '/srv/b.onnx': 3/4 done, see https://x.org/a/b")

    pool = pool_of(FunctionWorker("broken", broken, version="1"), brightening("near", 20))
    manager = manager_with(tmp_path, examples=2, pool=pool, storage=AtTheRoot())
    manager.validate()
    text = text_of(manager)
    assert "look.bin or 'b.onnx': 3/4 done, see https://x.org/a/b" in text
    assert "/opt" not in text
    assert "secret" not in text


def test_figures_on_the_page_are_those_of_the_documents(tree: Any, manager: TrainingManager) -> None:
    text = said(tree.find("body"))
    sessions = manager.data_manager.get_all_sessions()
    validation: Any = sessions[-1].validation
    trained = validation["contenders"]["trained"]
    for name, row in zip(("trained", "equal_weights", "previous", "untouched"), BASELINES, strict=True):
        assert f"{row}{validation['contenders'][name]['mean']:.3f}" in text
    assert f"similarity on unseen examples{trained['mean']:.3f}" in text
    assert f"mean ΔE00{trained['mean_delta_e']:.2f}" in text
    best = validation["verdict"]["best_single"]
    gain = validation["verdict"]["comparisons"]["best_single"]
    low, high = (figure_text(end, signed=True) for end in gain["interval"])
    assert f"{best}best single worker" in text
    chance = probability_text(gain["probability_better"], "P")
    assert f"{figure_text(gain['mean_difference'], signed=True)} {chance}{low} to {high}" in text
    for known in manager.weight_learner.get_all_statistics().values():
        ends = known["credible_interval"]
        assert f"{known['weight']:.3f}{ends[0]:.3f} to {ends[1]:.3f}" in text
    board = manager.leaderboard()
    for each in board.rows:
        assert f"{each.name}{'best single worker' if each.name == best else ''}{figure_text(each.similarity)}" in text
    assert f"{LONG}near" not in text
    assert "26 of 26" in text or "25 of 25" in text  # the broken worker, wherever it was tried
    assert "learning rate (alpha)0.15" in text
    [chart] = [label for e in tree.iter() if "by number of examples" in (label := e.get("aria-label") or "")]
    assert " after 0, " in chart
    assert f" after {len(sessions[0].training_ids)}, " in chart
    for words in ("Examples that the newest training could not use.", "target_3", "raised: RuntimeError"):
        assert words in text


def test_the_same_state_gives_the_same_page_but_for_the_time(manager: TrainingManager) -> None:
    engine = attrs.evolve(manager.training_engine, clock=lambda: MOMENT)
    once, twice = (report_page(engine) for _ in range(2))
    assert once == twice


# --- pages about less -------------------------------------------------------------------------------------------------


def text_of(manager: TrainingManager) -> str:
    return said(parsed(report_page(manager.training_engine)).find("body"))


def test_before_any_training_the_page_says_so(tmp_path: Path) -> None:
    text = text_of(manager_with(tmp_path, examples=3))
    assert "No verdictNothing was trained yet" in text
    assert "No unseen held-out example was judged yet." in text
    assert "near–" in text
    assert "Pictures" in text
    assert "The last trainings" not in text


def test_an_empty_store_or_pool_has_a_page_too(tmp_path: Path) -> None:
    text = text_of(manager_with(tmp_path, examples=0))
    assert ", 0 examples, 3 workers, 0 trainings" in text
    bare = manager_with(tmp_path, examples=2, pool=WorkerPool())
    text = text_of(bare)
    assert "No verdict" in text
    assert "Leaderboard" not in text


def test_without_anything_held_out_the_verdict_is_that_of_the_results(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=3)
    results = manager.train(validation_split=0.0, verbose=False)
    text = text_of(manager)
    nothing = "Nothing was held out, so nothing tells how the ensemble does on pictures it has not seen. "
    assert f"+ Collect more{nothing}" in text
    assert results["validation"]["verdict"]["sentence"] in text
    assert "Learning curve" in text
    for words in ("similarity on unseen", "How the weights moved", "The guide promises"):
        assert words not in text


def test_a_chart_of_growth_says_what_it_shows() -> None:
    label = 'aria-label="Similarity on held-out examples by number of examples: 0.790 after 0, 0.860 after 10.'
    assert label in growth_chart([(0, 0.79), (10, 0.86)])


def test_the_page_says_of_which_examples_its_figures_are(tmp_path: Path) -> None:
    """Some of those that the second training holds out were learned from in the first."""
    manager = manager_with(tmp_path, examples=6)
    manager.train(validation_split=0.0, verbose=False)
    manager.add_training_examples([save_triple(tmp_path, seed) for seed in range(6, 12)])
    validation = manager.train(validation_split=0.5, verbose=False)["validation"]
    unseen = validation["unseen_examples"]
    assert (validation["num_examples"], 0 < unseen < 6) == (6, True)
    text = text_of(manager)
    assert f"held out6never learned from{unseen}" in text
    assert f"On {unseen} unseen held-out examples of {unseen} targets, each target counting once" in text
    assert f"6 examples held out ({6 - unseen} of them learned from in an earlier training)" in text


def test_few_targets_promise_no_interval_and_examples_that_were_learned_from_are_called_so(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=6)
    manager.train(validation_split=0.5, verbose=False)
    text = text_of(manager)
    assert "On 3 unseen held-out examples of 3 targets" in text
    assert "90 % intervals, of similarities from 8 targets on." in text
    assert "P =" not in text
    manager.train(validation_split=0.0, verbose=False)
    manager.train(validation_split=0.5, verbose=False)
    text = text_of(manager)
    assert "similarity, on examples learned from" in text
    assert "No unseen held-out example was judged yet." in text


def test_a_validation_without_pictures_has_no_verdict(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=4)
    manager.train(validation_split=0.5, verbose=False)
    session = manager.data_manager.get_all_sessions()[-1]
    store = InMemoryStore()
    bare = attrs.evolve(session, validation={"avg_accuracy": 0.5, "num_examples": 2}, metrics_history=())
    store.begin_session(attrs.evolve(bare, status="running"))
    store.commit_session(session.session_id, lambda _state: SessionCommit(bare))
    text = text_of(TrainingManager(usual_pool(), BayesianWeightLearner(), storage=store))
    assert "This training was not judged beside its baselines" in text
    assert "Learning curve" not in text


def test_unreadable_pictures_leave_room_for_others(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=8)
    manager.train(validation_split=0.9, verbose=False)
    for example in manager.data_manager.get_all_examples()[:4]:
        Path(example.target_path).write_bytes(b"gone")
    page = report_page(manager.training_engine, rows=1)
    assert len([h3 for h3 in parsed(page).iter("h3") if "worst" in said(h3) or "best" in said(h3)]) == 2
    for example in manager.data_manager.get_all_examples():
        Path(example.target_path).write_bytes(b"gone")
    assert "Pictures" not in said(parsed(report_page(manager.training_engine)))


def rewritten(manager: TrainingManager, change: Callable[[Any], Any]) -> TrainingManager:
    """Return a manager with the last session only, whose validation was changed."""
    session = manager.data_manager.get_all_sessions()[-1]
    validation = json.loads(json.dumps(session.validation))
    change(validation)
    changed = attrs.evolve(session, validation=validation)
    store = InMemoryStore()
    store.begin_session(attrs.evolve(changed, status="running"))
    store.commit_session(session.session_id, lambda _state: SessionCommit(changed))
    return TrainingManager(usual_pool(), BayesianWeightLearner(), storage=store)


def test_the_page_says_how_many_of_the_held_out_examples_were_judged(manager: TrainingManager) -> None:
    def forget(validation: Any) -> None:
        for each in validation["per_example"][2:]:
            each["scores"].clear()

    total = manager.data_manager.get_all_sessions()[-1].validation["num_examples"]  # type: ignore[index]
    assert f"judged2 of {total}" in text_of(rewritten(manager, forget))


@pytest.mark.parametrize(
    ("decision", "words"),
    [("no gain", "= No gain"), ("ship", "✓ Ship"), ("don't ship", "✗ Don't ship"), ("collect more", "+ Collect more")],
)
def test_every_decision_has_its_own_sign(manager: TrainingManager, decision: str, words: str) -> None:
    def decide(validation: Any) -> None:
        validation["verdict"] |= {"decision": decision, "sentence": "It is so."}
        for name in ("best_single", "best_fixed"):
            validation["verdict"][name] = name.upper()
        validation["contenders"]["best_fixed"] = validation["contenders"]["best_single"]

    text = text_of(rewritten(manager, decide))
    assert f"{words}It is so." in text
    assert ("call validate()" in text) == (decision == "collect more")


def test_a_check_that_found_nothing_says_so(manager: TrainingManager) -> None:
    page = report_page(manager.training_engine, findings=found(), rows=1)
    assert "Nothing was found in 13 examples." in said(parsed(page))


def test_findings_of_one_kind_are_one_line_with_one_call(manager: TrainingManager) -> None:
    many = [LintFinding("duplicate", f"finding {n}", "Keep one.", f"remove({n})") for n in range(40)]
    few = [LintFinding("few_examples", "few", "Add more.", "add()")]
    tree = parsed(report_page(manager.training_engine, findings=found(*many, *few), rows=1))
    [table] = [each for each in tree.iter("table") if "41 findings in 13 examples" in said(each)]
    first, second = [said(row) for row in table.iter("tr")][1:]
    assert first.startswith("warningfinding 0and 39 more of this kindfinding 1")
    assert "finding 30and 9 moreKeep one." in first
    assert first.endswith("manager.lint().of_kind('duplicate'): print(found.call)")
    assert second == "infofewAdd more. add()"


def test_where_previews_were_not_kept_the_page_does_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InMemoryStore, "load_previews", lambda _self, _digest: {})
    manager = manager_with(tmp_path, examples=6)
    manager.train(validation_split=0.5, verbose=False)
    text = text_of(manager)
    assert "Collect at least 8 more examples to judge by" in text
    assert "Add them and call validate()" in text


def test_workers_without_a_share_are_folded_but_for_the_best_single_one(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=6)
    manager.train(validation_split=0.5, verbose=False)
    board = manager.leaderboard()
    shared = attrs.evolve(board, rows=tuple(attrs.evolve(row, share=row.share and 0.0) for row in board.rows))
    tree = parsed(f"<!DOCTYPE html><html lang=en><head><title>x</title></head><body>{leaderboard_table(shared)}")
    [folded] = tree.iter("details")
    assert said(folded.find("summary")) == "2 workers with a share of 0 %"
    assert [said(cell) for cell in folded.iter("th") if cell.get("scope") == "row"] == ["mid", "far"]
    assert "nearbest single worker" in said(next(tree.iter("table")))


def test_in_use_before_stands_there_only_where_it_was_not_equal_weights(
    manager: TrainingManager, tmp_path: Path
) -> None:
    first = manager_with(tmp_path, examples=6)
    first.train(validation_split=0.5, verbose=False)
    assert "in use before" not in text_of(first)
    assert "in use before" in text_of(manager)


def test_the_last_ten_trainings_stand_side_by_side_the_newest_first(tmp_path: Path) -> None:
    manager = manager_with(tmp_path, examples=4)
    results = [manager.train(validation_split=0.5, verbose=False) for _ in range(11)]
    tree = parsed(report_page(manager.training_engine))
    [table] = [each for each in tree.iter("table") if said(each.find("caption")) == "Trainings"]
    rows = [said(row) for row in table.iter("tr")][1:]
    assert len(rows) == 10
    weights = results[-1]["session"]["final_weights"]
    assert rows[0].endswith(
        f"Collect morenear {weights['near']:.3f}, mid {weights['mid']:.3f}, far {weights['far']:.3f}"
    )


def test_sessions_of_another_application_give_what_they_have(tmp_path: Path) -> None:
    history: Any = [{"avg_accuracy": 0.5}, {"avg_accuracy": 0.625}]
    store = InMemoryStore()
    for name in ("a", "b"):
        nothing: Any = {"training_ids": (), "validation_ids": (), "initial_weights": {}, "final_weights": {}}
        session = attrs.evolve(make_session(name, status="running", validation=None), **nothing)
        store.begin_session(session)
        ended = attrs.evolve(session, status="completed", is_trial=False, metrics_history=history)
        store.commit_session(name, lambda _state, ended=ended: SessionCommit(ended))  # type: ignore[misc]
    page = report_page(TrainingManager(usual_pool(), BayesianWeightLearner(), storage=store).training_engine)
    assert "trained weights ends at 0.625" in page
    assert "equal weights ends at" not in page
    assert "How the weights moved" not in page


@pytest.mark.slow
def test_large_pictures_many_workers_and_no_tolerance(tmp_path: Path) -> None:
    pool = pool_of(*(brightening(f"worker_{number}", number * 7) for number in range(8)))
    manager = manager_with(
        tmp_path, examples=0, pool=pool, engine_factory=TrainingEngine.using(GuideSimilarity(), rope=0.0)
    )
    manager.add_training_examples([save_triple(tmp_path, 0, size=(700, 800))])
    manager.add_training_examples([save_triple(tmp_path, seed) for seed in range(1, 12)])
    manager.train(num_examples=6, validation_split=0.5, verbose=False)
    manager.train(validation_split=0.8, verbose=False)
    examples = [example.example_id for example in manager.data_manager.get_all_examples()]
    page = report_page(manager.training_engine, example_ids=examples[:1])
    text = said(parsed(page))
    assert "Large pictures were shrunk before the workers saw them." in text
    assert "Thin lines: 3 other workers." in text
    assert "practically none" not in text
    assert 'width="320" height="280"' in page


# --- writing it -------------------------------------------------------------------------------------------------------


def test_a_manager_writes_its_report(manager: TrainingManager, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingManager, "lint", lambda _self: found())
    path = manager.report(folder / "mine.html", title="Mine", rows=1)
    assert path == folder / "mine.html"
    written = path.read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in written
    assert "Nothing was found in 13 examples." in written
    assert "It was not checked" in manager.report(str(path), rows=1, check_dataset=False).read_text(encoding="utf-8")


def test_chosen_examples_are_shown(manager: TrainingManager, folder: Path) -> None:
    examples = manager.data_manager.get_all_examples()
    path = manager.report(
        folder / "chosen.html", example_ids=[examples[5].example_id, examples[4].example_id], check_dataset=False
    )
    tree = parsed(path.read_text(encoding="utf-8"))
    assert [said(h3) for h3 in tree.iter("h3")] == ["target_5", "target_4", "How the weights moved"]
    assert "Pictures" in [said(h2) for h2 in tree.iter("h2")]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"title": " "}, InvalidArgumentError),
        ({"title": 5}, InvalidArgumentError),
        ({"rows": 0}, InvalidArgumentError),
        ({"example_ids": ["nobody"]}, ExampleNotFoundError),
    ],
)
def test_wrong_arguments_write_nothing(
    manager: TrainingManager, tmp_path: Path, settings: Mapping[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        manager.report(tmp_path / "report.html", check_dataset=False, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named_before_any_work(manager: TrainingManager, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="a file in an existing folder"):
        manager.report(tmp_path)
    with pytest.raises(InvalidArgumentError, match="a file in an existing folder"):
        manager.report(tmp_path / "nowhere" / "report.html")


def test_a_report_that_cannot_be_written_is_named_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/.41650bae.tmp")

    (tmp_path / "report.html").write_text("old")
    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PermissionError, match=r"the report cannot be written: .*report\.html'$") as caught:
        write_report(tmp_path / "report.html", "new")
    assert "41650bae" not in str(caught.value)
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_judge_that_breaks_ends_the_report(tmp_path: Path) -> None:
    def judge(_output: Any, _truth: Any) -> float:
        return 2.0

    manager = manager_with(tmp_path, examples=2)
    engine = attrs.evolve(manager.training_engine, metric=judge)
    with pytest.raises(MetricError):
        report_page(engine)


# --- in a browser -----------------------------------------------------------------------------------------------------


BROKEN_WORDS = """() => {
    const broken = [];
    for (const cell of document.querySelectorAll("th, dt")) {
        const texts = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            for (const word of texts.currentNode.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
                const range = document.createRange();
                range.setStart(texts.currentNode, word.index);
                range.setEnd(texts.currentNode, word.index + word[0].length);
                if (new Set([...range.getClientRects()].map(box => box.top)).size > 1) broken.push(word[0]);
            }
        }
    }
    return broken;
}"""


@pytest.mark.slow
def test_labels_in_notebooks_break_between_words_only(tab: Tab, manager: TrainingManager, tmp_path: Path) -> None:
    session = manager.data_manager.get_all_sessions()[-1]
    validation: Any = session.validation
    cards = [show(validation), show(manager.explain()), session, found(LintFinding("few_examples", "few", "Add more."))]
    (tmp_path / "cards.html").write_text("<meta charset=utf-8>" + "".join(each._repr_html_() for each in cards))
    tab.resize((520, 600))
    tab.open(tmp_path / "cards.html")
    assert tab.page.evaluate(BROKEN_WORDS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [((1200, 900), "dark"), (PHONE, "light"), ((320, 600), "dark")])
def test_the_page_can_be_read_everywhere(tab: Tab, page: str, folder: Path, size: tuple[int, int], scheme: Any) -> None:
    assert page
    tab.resize(size)
    tab.prefer(scheme)
    tab.open(folder / "report.html")
    assert tab.layout_faults() == []
    assert tab.accessibility_faults() == []
    assert tab.broken_images() == []
    assert tab.page.evaluate(BROKEN_WORDS) == []  # names break between words and at joints only
    tab.assert_clean()
    assert [address for address in tab.requests if not address.startswith("data:")] == [
        (folder / "report.html").absolute().as_uri()
    ]
    brightness = tab.screenshot(whole=False).mean()
    assert brightness > 180 if scheme == "light" else brightness < 90


@pytest.mark.slow
def test_at_most_three_screens_of_a_desk_stand_before_the_pictures(tab: Tab, page: str, folder: Path) -> None:
    assert page
    tab.resize((1280, 900))
    tab.open(folder / "report.html")
    assert tab.page.locator("h2", has_text="Pictures").bounding_box()["y"] < 3 * 900


@pytest.mark.slow
def test_every_chart_is_drawn_and_no_place_is_empty(tab: Tab, page: str, folder: Path) -> None:
    assert page
    for size in ((1200, 900), PHONE):
        tab.resize(size)
        tab.open(folder / "report.html")
        boxes = tab.page.evaluate(
            """() => [...document.querySelectorAll("svg.bar, svg.chart, img")].map(element => {
                const box = element.getBoundingClientRect(); return [element.tagName, box.width, box.height]; })"""
        )
        assert len(boxes) > 30
        assert [box for box in boxes if box[1] < 60 or box[2] < 8] == []
        inked = tab.page.evaluate(
            """() => [...document.querySelectorAll("td svg.bar, svg.chart")].map(svg => {
                const outer = svg.getBoundingClientRect();
                const marks = [...svg.querySelectorAll("circle")].map(mark => mark.getBoundingClientRect());
                return marks.length > 0 && marks.every(mark => mark.x >= outer.x - 6 && mark.right <= outer.right + 6
                    && mark.y >= outer.y - 6 && mark.bottom <= outer.bottom + 6); })"""
        )
        assert all(inked)
    picture = tab.screenshot()
    for top in range(0, picture.shape[0] - 900, 900):
        assert picture[top : top + 900].std() > 10, f"nothing is drawn from {top} on"


@pytest.mark.slow
def test_the_page_can_be_printed(tab: Tab, page: str, folder: Path) -> None:
    assert page
    tab.prefer("dark", "print")
    tab.open(folder / "report.html")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    tab.resize((700, 990))
    assert tab.layout_faults(smallest_text=7.0) == []
    printed = tab.page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert 1 < printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page/") + printed.count(b"/Type /Page ") < 15
