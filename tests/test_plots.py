"""Plots: what stands in them, that it can be read, and that the host's matplotlib is left alone."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import matplotlib as mpl
import matplotlib.style
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from support import failing as failing_worker
from support import manager_with, pool_of, usual_pool
from tsm_training import BayesianWeightLearner, TrainingManager, TrainingResults, TrainingSession
from tsm_training.analysis import Baseline, ScoreTable
from tsm_training.engine import Validation
from tsm_training.errors import InvalidArgumentError, MissingExtraError
from tsm_training.plots import (
    plot_contenders,
    plot_examples,
    plot_growth,
    plot_learning_curve,
    plot_weights,
    plot_workers,
)
from tsm_training.report.figures import (
    accuracy_rows,
    benchmark_of,
    example_names,
    foremost,
    growth_of,
    guide_band,
    learning_curve,
    shortened,
    weight_paths,
)
from tsm_training.testing.records import make_session
from tsm_training.weights import LearnerStatistics

LONG = "a_worker_whose_name_tells_everything_that_it_does_and_then_something_more_in_version_"


# --- looking at figures -----------------------------------------------------------------------------------------------


def drawn(figure: Figure) -> Figure:
    if figure.stale:
        figure.canvas.draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    drawn(figure)
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_visible() and text.get_text()]


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in texts(figure)}


def faults(figure: Figure) -> list[str]:
    """Return which texts stand over each other or outside the figure."""
    found = texts(figure)
    hidden = _undrawn(figure)  # known once it is drawn
    shown = [text for text in found if text not in hidden]
    boxes = {f"{number} {text.get_text()}": text.get_window_extent() for number, text in enumerate(shown)}
    outside = [name for name, box in boxes.items() if not _inside(box, figure.bbox)]
    pairs = itertools.combinations(boxes.items(), 2)
    return outside + [f"{one} / {other}" for (one, a), (other, b) in pairs if _meet(a, b)]


def _undrawn(figure: Figure) -> set[Text]:
    """Return the labels of ticks beyond the ends of their axes: matplotlib keeps them, and does not draw them."""
    found: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            found |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    return found


def _inside(box: Any, paper: Any) -> bool:
    return bool(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= paper.x1 + 1 and box.y1 <= paper.y1 + 1)


def _meet(a: Any, b: Any) -> bool:
    across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return bool(across > 1 and down > 1)


def pixels(figure: Figure) -> Any:
    return np.asarray(drawn(figure).canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]


def has_color(figure: Figure, color: str) -> bool:
    rgb = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)])
    return bool((np.abs(pixels(figure).astype(int) - rgb).max(axis=-1) < 8).any())


# --- what is drawn ----------------------------------------------------------------------------------------------------


def statistics(count: int) -> dict[str, LearnerStatistics]:
    found: dict[str, LearnerStatistics] = {}
    for number in range(count):
        weight = 1.0 + 0.01 * (number - count / 2)
        found[f"{LONG}{number}"] = {
            "mean_accuracy": 0.8,
            "update_count": 9,
            "weight": weight,
            "weight_std": 0.01,
            "credible_interval": (weight - 0.0164, weight + 0.0164),
            "evidence": 5.0,
            "failure_count": 0,
            "prior_weight": 1.0,
        }
    return found


def sessions(count: int, workers: int = 3) -> list[TrainingSession]:
    """Return sessions of two epochs in which each worker goes its own way."""
    names = [f"{LONG}{number}" for number in range(workers)]
    found = []
    before = dict.fromkeys(names, 1.0)
    for number in range(count):
        steps = [
            {name: before[name] + 0.01 * (place - workers / 2) * part for place, name in enumerate(names)}
            for part in (0.6, 1.0)
        ]
        history: Any = [
            {"epoch": epoch, "avg_accuracy": 0.8, "weights": step, "weight_stds": dict.fromkeys(names, 0.02)}
            for epoch, step in enumerate(steps, 1)
        ]
        found.append(
            make_session(
                f"s{number}",
                status="completed",
                initial_weights=before,
                final_weights=steps[-1],
                metrics_history=history,
                validation=None,
                is_trial=False,
            )
        )
        before = steps[-1]
    return found


def table(workers: int, examples: int = 12, gaps: Sequence[int] = ()) -> ScoreTable:
    rng = np.random.default_rng(workers)
    scores: dict[str, list[float | None]] = {
        f"{LONG}{number}": [float(score) for score in rng.uniform(0.3, 0.9, examples)] for number in range(workers)
    }
    for number in gaps:
        scores[f"{LONG}{number}"][0] = None
    ids = [f"e{number}" for number in range(examples)]
    return ScoreTable(example_ids=ids, groups=ids, scores=scores)


def judged(examples: int = 9, baselines: Sequence[str] = ("trained", "equal_weights", "untouched")) -> Any:
    """Return the document of a validation in which two of three examples are unseen."""
    rng = np.random.default_rng(examples)
    per_example: Any = [
        {
            "example_id": f"{number:02}-example",
            "group": None,
            "is_unseen": number % 3 > 0,
            "scores": {name: float(score) for name, score in zip(baselines, rng.uniform(0.5, 0.9, 9), strict=False)},
            "delta_e": {},
        }
        for number in range(examples)
    ]
    gain: Any = {"mean_difference": 0.02, "interval": [0.01, 0.03], "n": examples}
    verdict: Any = {**Validation().verdict, "comparisons": {"equal_weights": gain}}
    return Validation(per_example=per_example, verdict=verdict).to_document()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingManager, TrainingResults]:
    """A manager that was trained twice on eleven examples; one of its workers fails always."""
    pool = pool_of(*usual_pool().workers, failing_worker("broken"))
    manager = manager_with(tmp_path_factory.mktemp("plots"), examples=11, solver="auto", pool=pool)
    manager.train(num_examples=6, validation_split=0.3, verbose=False)
    return manager, manager.train(epochs=3, validation_split=0.3, verbose=False)


@pytest.fixture(scope="module")
def plots(trained: tuple[TrainingManager, TrainingResults]) -> dict[str, Figure]:
    return all_plots(*trained)


def all_plots(manager: TrainingManager, results: TrainingResults) -> dict[str, Figure]:
    return {
        "weights": plot_weights(manager),
        "evolution": plot_weights(manager.data_manager.get_all_sessions()),
        "learner": plot_weights(manager.weight_learner),
        "curve": plot_learning_curve(results),
        "workers": plot_workers(manager),
        "contenders": plot_contenders(results),
        "examples": plot_examples(results, manager.data_manager.get_all_examples()),
    }


@pytest.mark.slow
def test_every_plot_of_a_training_can_be_read(plots: Mapping[str, Figure]) -> None:
    for name, figure in plots.items():
        assert faults(figure) == [], name
        assert has_color(figure, "#d55e00" if name == "contenders" else "#0072b2"), name
        assert 0.005 < (pixels(figure).min(axis=-1) < 200).mean() < 0.5, name


@pytest.mark.slow
def test_plots_say_what_they_show(
    trained: tuple[TrainingManager, TrainingResults], plots: Mapping[str, Figure]
) -> None:
    manager, results = trained
    said = {name: words(figure) for name, figure in plots.items()}
    workers = set(manager.weight_learner.get_all_weights())
    for name in ("weights", "learner", "workers"):
        assert workers <= said[name], name
    assert {"share", "How far each worker is trusted", "How the weights moved"} <= said["weights"]
    assert "share" not in said["evolution"]
    assert {"failed", "11×", "Difference from the first, example by example"} <= said["workers"]
    assert {"trained weights", "equal weights", "best single worker: near", "held out"} <= said["curve"]
    assert all(has_color(plots["curve"], color) for color in ("#0072b2", "#d55e00", "#009e73"))
    baselines = {"trained ensemble", "in use before", "equal weights", "best single worker: near", "untouched target"}
    assert baselines <= said["contenders"]
    assert baselines <= said["examples"]
    held_out = [each["example_id"] for each in results["validation"]["per_example"]]
    stems = {Path(manager.data_manager.get_example(example_id).target_path).stem for example_id in held_out}
    assert stems <= said["examples"]


# --- what examples bring ----------------------------------------------------------------------------------------------

POINTS = ((0, 0.79), (10, 0.86), (20, 0.88), (40, 0.91), (80, 0.93))


@pytest.mark.parametrize(
    "points", [POINTS, POINTS[:2], [[300, 0.9], [301, 0.91], [302, 0.5]], [(0, 0.7), (1, 0.7)], [(5, 0.1), (5, 0.9)]]
)
def test_what_examples_bring_can_be_read(points: Any) -> None:
    figure = plot_growth(points)
    assert faults(figure) == []
    assert {"What examples bring", "examples learned from", "similarity on held-out examples"} <= words(figure)
    assert f" {points[0][1]:.3f}" in words(figure)


def grown(number: int, ids: Sequence[str], trained: float | None, **settings: Any) -> TrainingSession:
    means: Any = {"equal_weights": {"mean": 0.79}, "trained": {"mean": trained}}
    return make_session(
        session_id=str(number),
        status="completed",
        training_ids=tuple(ids),
        **{"validation": Validation(baselines=means).to_document(), **settings},
    )


def test_there_is_a_point_for_each_number_of_examples_of_the_newest_training_on_them() -> None:
    sessions = [
        grown(0, "abc", None),  # judged nothing
        grown(1, "abcd", 0.5),
        grown(2, "bd", 0.86),  # the same again
        grown(2, "ad", None),
        grown(3, "efg", 0.5, is_trial=True),
        grown(4, "efgh", 0.88),
        grown(5, "ijk", 0.9, validation=None),
        grown(6, "l", 0.9),
    ]
    assert growth_of(sessions) == [(0.0, 0.79), (4.0, 0.86), (8.0, 0.88), (12.0, 0.9)]
    assert growth_of(sessions[:1]) == growth_of([]) == []
    assert " 0.860" in words(plot_growth(iter(sessions)))


def test_the_band_is_that_of_the_guide() -> None:
    assert guide_band(10) == [(0.0, 0.75, 0.80), (10, 0.80, 0.85)]
    assert guide_band(65)[-1] == pytest.approx((65, 0.875, 0.925))
    assert guide_band(1000)[-2:] == [(100.0, 0.90, 0.95), (1000, 0.90, 0.95)]
    assert guide_band(0) == [(0, 0.75, 0.80)]


def test_what_examples_bring_to_a_manager(trained: tuple[TrainingManager, TrainingResults]) -> None:
    manager, _results = trained
    points = growth_of(manager.data_manager.get_all_sessions())
    assert (len(points) >= 2) == bool(points)
    assert words(plot_growth(manager)) == words(plot_growth(points))


# --- pictures that are not all kept -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_baseline_without_some_pictures_is_drawn_where_it_has_them() -> None:
    results: Any = json.loads(json.dumps(judged(30)))
    for each in results["per_example"][3:]:
        del each["scores"]["equal_weights"]
    for each in results["per_example"][20:]:
        each["scores"].clear()
    benchmark, equal = benchmark_of(results), Baseline.EQUAL_WEIGHTS
    assert (len(benchmark.judged), benchmark.num_held_out) == (13, 20)
    assert benchmark.examples_text == "13 of 20 held-out examples"
    assert len(benchmark.scores(equal)) == len(benchmark.differences(equal)) == 2
    assert any("Lines link the 13 of 20 held-out examples" in text for text in words(plot_contenders(results)))
    assert faults(plot_examples(results)) == []


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 40])
def test_one_worker_or_forty_with_long_names_can_be_read(count: int) -> None:
    drawings = importlib.import_module("tsm_training.plots.drawings")
    known, paths = statistics(count), weight_paths(sessions(3, count))
    assert faults(drawings.plot_weights(known, dict.fromkeys(known, 0.025), paths, None)) == []
    assert faults(plot_weights(sessions(3, count))) == []
    assert faults(plot_workers(table(count, gaps=[count - 1]))) == []


@pytest.mark.slow
@pytest.mark.parametrize("examples", [1, 60])
def test_any_number_of_examples_can_be_read(examples: int) -> None:
    assert faults(plot_examples(judged(examples))) == []
    assert faults(plot_contenders(judged(examples))) == []


def test_of_too_many_examples_the_best_and_the_worst_are_shown() -> None:
    results = judged(30)
    shown = words(plot_examples(results, most=5))
    ranked = [row["example_id"] for row in benchmark_of(results).ranked()]
    names = example_names(ranked)
    assert {names[example_id] for example_id in [*ranked[:3], *ranked[-2:]]} <= shown
    assert names[ranked[10]] not in shown
    assert any("25 in the middle are left out" in text for text in shown)


def test_workers_may_be_called_anything() -> None:
    odd = ["$\\frac{1}{", "_hidden", "<b>&amp;", "名前", "x^2_3", "a\\n", "%d {0}"]
    known = dict(zip(odd, statistics(len(odd)).values(), strict=True))
    shown = words(plot_weights(known))
    assert {"$\\frac{1}{", "_hidden", "<b>&amp;", "□□", "x^2_3", "a\\n", "%d {0}"} <= shown
    history: Any = [{"epoch": 1, "avg_accuracy": 0.5, "worker_accuracies": {"_$x_{": 0.6}}]
    session = make_session("s", metrics_history=history, validation=None)
    assert "best single worker: _$x_{" in words(plot_learning_curve(session))


def test_weights_are_where_the_learner_says(trained: tuple[TrainingManager, TrainingResults]) -> None:
    manager, _results = trained
    (axes,) = plot_weights(manager.weight_learner).axes
    known = manager.weight_learner.get_all_statistics()
    order = [label.get_text() for label in axes.get_yticklabels()]
    assert order == sorted(known, key=lambda worker_id: -known[worker_id]["weight"])
    drawn = {tuple(float(x) for x in line.get_xdata()) for line in axes.lines}
    for each in known.values():
        assert {(each["weight"],), each["credible_interval"]} <= drawn


def test_chosen_workers_get_the_colours() -> None:
    figure = plot_weights(sessions(2, 9), highlight=[f"{LONG}4"])
    names = shortened(f"{LONG}{number}" for number in range(9))
    assert names[f"{LONG}4"] in words(figure)
    assert names[f"{LONG}5"] not in words(figure)
    assert "grey: 8 others" in words(figure)
    figure = plot_weights(statistics(3), highlight=[f"{LONG}1"])
    assert has_color(figure, "#0072b2")
    assert has_color(figure, "#5f6368")


def test_bands_are_drawn_where_certainty_is_known() -> None:
    with_bands, without = (
        sessions(2),
        [
            attrs.evolve(each, metrics_history=[{**entry, "weight_stds": {}} for entry in each.metrics_history])  # type: ignore[misc]
            for each in sessions(2)
        ],
    )
    assert len(plot_weights(with_bands).axes[0].collections) == 3
    assert len(plot_weights(without).axes[0].collections) == 0
    once = [attrs.evolve(each, metrics_history=each.metrics_history[:1]) for each in sessions(1)]
    assert faults(plot_weights(once)) == []


def test_sessions_without_a_history_show_where_they_ended() -> None:
    bare = [attrs.evolve(each, metrics_history=()) for each in sessions(2)]
    paths = weight_paths(bare)
    assert [point.place for point in paths[0].points] == [0.0, 1.0, 2.0]
    assert plot_weights(bare[0]).axes[0].get_xlim() == (0.0, 1.0)


# --- the host's matplotlib --------------------------------------------------------------------------------------------


HOST: Mapping[str, Any] = {
    "font.size": 23,
    "font.family": "serif",
    "text.usetex": True,
    "text.color": "red",
    "text.antialiased": False,
    "axes.spines.top": True,
    "axes.titlelocation": "right",
    "axes.labelpad": 30,
    "axes.xmargin": 0.3,
    "lines.linestyle": ":",
    "lines.marker": "x",
    "lines.antialiased": False,
    "patch.force_edgecolor": True,
    "xtick.minor.visible": True,
    "ytick.right": True,
    "xtick.alignment": "left",
    "grid.linestyle": ":",
    "legend.loc": "center",
    "legend.shadow": True,
    "legend.scatterpoints": 4,
    "hatch.linewidth": 4,
    "figure.dpi": 33,
    "figure.constrained_layout.w_pad": 1.0,
    "path.sketch": (1, 100, 2),
    "savefig.dpi": 33,
    "savefig.facecolor": "red",
    "savefig.transparent": True,
}
"""Settings of a host whose taste is not ours."""


@pytest.mark.slow
def test_the_hosts_settings_neither_show_nor_change(
    trained: tuple[TrainingManager, TrainingResults],
) -> None:
    plain = {name: figure._repr_png_() for name, figure in all_plots(*trained).items()}  # type: ignore[attr-defined]
    with mpl.rc_context():
        matplotlib.style.use("dark_background")
        mpl.rcParams.update(HOST)
        before = dict(mpl.rcParams)
        odd = {name: figure._repr_png_() for name, figure in all_plots(*trained).items()}  # type: ignore[attr-defined]
        assert dict(mpl.rcParams) == before
    different = [name for name in plain if plain[name] != odd[name]]
    assert different == []


@pytest.mark.slow
def test_plots_in_several_threads_wait_for_each_other() -> None:
    known = statistics(3)
    expected: Any = plot_weights(known)
    with mpl.rc_context({"lines.linewidth": 7.0}):
        before = dict(mpl.rcParams)
        with ThreadPoolExecutor(4) as pool:
            shown = list(pool.map(lambda _number: plot_weights(known)._repr_png_(), range(4)))  # type: ignore[attr-defined]
        assert dict(mpl.rcParams) == before
    assert set(shown) == {expected._repr_png_()}


@pytest.mark.slow
def test_nothing_of_pyplot_is_loaded_and_no_screen_is_needed(tmp_path: Path) -> None:
    code = f"""
import json, sys
from tsm_training.plots import plot_weights
from tsm_training import BayesianWeightLearner
learner = BayesianWeightLearner()
learner.add_workers(["a", "b"])
assert "matplotlib" not in sys.modules
plot_weights(learner).savefig({str(tmp_path / "plot.png")!r})
print(json.dumps(["matplotlib.pyplot" in sys.modules, "tkinter" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False]
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_notebook_shows_a_figure_as_it_is_saved(tmp_path: Path) -> None:
    figure: Any = plot_weights(statistics(2))
    shown = figure._repr_png_()
    assert shown.startswith(b"\x89PNG")
    figure.savefig(tmp_path / "plot.png")
    figure.savefig(tmp_path / "plot.svg")
    assert (tmp_path / "plot.png").read_bytes() == shown
    assert "<svg" in (tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tsm_training.plots.drawings", raising=False)
    monkeypatch.delitem(sys.modules, "tsm_training.plots.style", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    with pytest.raises(MissingExtraError, match=r'plot_workers needs .*pip install "tsm_training\[plots\]"'):
        plot_workers(table(2))


def test_another_missing_module_is_not_taken_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> Any:
        raise ModuleNotFoundError("no module named 'else'", name="else")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="else") as caught:
        plot_workers(table(2))
    assert not isinstance(caught.value, MissingExtraError)


# --- what cannot be drawn ---------------------------------------------------------------------------------------------


def ended(**changes: Any) -> list[TrainingSession]:
    return [attrs.evolve(each, **changes) for each in sessions(1)]


NO_SUBJECT: list[tuple[Callable[..., Figure], list[Any]]] = [
    (
        plot_weights,
        [
            *({}, [], BayesianWeightLearner(), "weights", 5, b"x", ["a"], {"near": 1.0}, {"near": {"weight": 1.0}}),
            *(sessions(1, 0), ended(is_trial=True), ended(status="failed")),
        ],
    ),
    (plot_growth, [None, 3, "ab", [], [(0, 0.5)], [(0, 0.5), (1, 1.5)], [(0, 0.5), (np.inf, 0.5)], [(0, 0.5), "ab"]]),
    (plot_learning_curve, [None, {}, {"session": make_session("s", metrics_history=()).to_summary()}]),
    (plot_contenders, [None, {}, judged(0), make_session("s", validation=None), judged(3, ["untouched"])]),
    (plot_examples, [None, {}, judged(0), make_session("s", validation=None), judged(3, ["untouched"])]),
    (plot_workers, [object(), table(0)]),
]


@pytest.mark.parametrize(("plot", "nothing"), [(plot, nothing) for plot, all_ in NO_SUBJECT for nothing in all_])
def test_nothing_cannot_be_drawn(plot: Callable[..., Figure], nothing: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        plot(nothing)
    assert caught.value.argument in {"subject", "session", "results"}


@pytest.mark.parametrize(
    ("plot", "subject", "settings"),
    [
        *((plot_weights, statistics(2), {"highlight": wrong}) for wrong in (3, "near", [1], ["nobody"])),
        *((plot_examples, judged(3), {"examples": wrong}) for wrong in (3, "text", None, ["a"], [1])),
        (plot_examples, judged(3), {"most": 1}),
        (plot_workers, table(1), {"rope": 1.0}),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    plot: Callable[..., Figure], subject: Any, settings: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        plot(subject, **settings)
    assert caught.value.argument == next(iter(settings))


# --- the figures behind the plots -------------------------------------------------------------------------------------


def test_a_weight_that_something_else_changed_jumps() -> None:
    first, second = sessions(2, 1)
    reset = attrs.evolve(second, initial_weights={f"{LONG}0": 1.5})
    (path,) = weight_paths([first, reset])
    assert [point.place for point in path.points] == [0.0, 0.5, 1.0, 1.0, 1.5, 2.0]
    assert path.points[3].weight == 1.5


def test_a_plot_of_chosen_examples_asks_for_those_only(trained: tuple[TrainingManager, TrainingResults]) -> None:
    manager, _results = trained
    ids = [example.example_id for example in manager.data_manager.get_all_examples()][:3]
    figure = plot_workers(manager, example_ids=ids, rope=0.25)
    assert "3×" in words(figure)
    assert any("up to 0.25" in text for text in words(figure))


def test_the_best_worker_is_compared_with_no_one() -> None:
    best, *others = accuracy_rows(table(3))
    assert best.comparison is None
    assert set(best.differences) == {0.0}
    assert all(row.comparison is not None and row.comparison.b == best.worker_id for row in others)
    few = accuracy_rows(table(2, examples=3))
    assert few[0].mean is not None
    assert few[0].interval is None
    silent = ScoreTable(example_ids=["a"], groups=["a"], scores={"x": [None], "y": [0.5]})
    assert [(row.worker_id, row.mean, row.failures) for row in accuracy_rows(silent)] == [("y", 0.5, 0), ("x", None, 1)]
    assert faults(plot_workers(silent)) == []


def test_a_curve_takes_what_the_session_has() -> None:
    history: Any = [{"avg_accuracy": 0.5}, {"epoch": 2, "avg_accuracy": 0.6, "equal_weights_accuracy": 0.4}]
    session = make_session("s", metrics_history=history, validation=None)
    curve = learning_curve(session)
    assert curve.epochs == [1, 2]
    assert [(line.name, line.values) for line in curve.lines] == [("trained weights", [0.5, 0.6])]
    assert curve.held_out is None
    assert "trained weights" in words(plot_learning_curve(session))
    assert learning_curve(attrs.evolve(session, validation={"of": "another application"})) == curve


def test_a_curve_names_the_worker_that_the_ensemble_was_judged_against() -> None:
    """One that often fails may have the greatest mean where it does not."""
    history: Any = [{"avg_accuracy": 0.5, "worker_accuracies": {"steady": 0.6, "brittle": 0.9}}]
    verdict: Any = {**Validation().verdict, "best_single": "steady"}
    for validation, name, best in ((Validation(verdict=verdict), "steady", 0.6), (Validation(), "brittle", 0.9)):
        curve = learning_curve(make_session("s", metrics_history=history, validation=validation.to_document()))
        assert [(line.name, line.values) for line in curve.lines[1:]] == [(f"best single worker: {name}", [best])]


@pytest.mark.parametrize(("unseen", "said"), [(3, " (2 of them learned from in an earlier training)."), (5, ".")])
def test_a_curve_says_what_an_earlier_training_knew_of_the_examples_held_out(unseen: int, said: str) -> None:
    rows: Any = [{"example_id": str(n), "is_unseen": n < unseen, "scores": {}, "delta_e": {}} for n in range(5)]
    validation = Validation(avg_accuracy=0.5, equal_weights_accuracy=0.4, per_example=rows)
    history: Any = [{"avg_accuracy": 0.5}]
    session = make_session("s", metrics_history=history, validation=validation.to_document())
    (caption,) = (text for text in words(plot_learning_curve(session)) if "On the right" in text)
    assert f"5 examples held out{said}" in caption


def test_a_session_and_the_results_of_its_training_give_one_curve(
    trained: tuple[TrainingManager, TrainingResults],
) -> None:
    manager, results = trained
    stored = manager.data_manager.get_session(results["session"]["session_id"])
    assert learning_curve(stored) == learning_curve(results)
    assert learning_curve(results["session"]).held_out is None
    assert benchmark_of(stored) == benchmark_of(results) == benchmark_of(results["validation"])


def test_the_similarity_of_the_ensembles_pictures_is_told_beside_the_guides_mean_and_first_among_baselines(
    trained: tuple[TrainingManager, TrainingResults],
) -> None:
    _manager, results = trained
    headline = Validation.from_document(results["validation"]).headline
    assert headline is not None
    told = words(plot_learning_curve(results))
    assert "mean of the workers, weighted (guide)" in told
    assert f"Learning curve: similarity {headline:.3f} on unseen examples" in told
    figures = [text for text in words(plot_contenders(results)) if re.fullmatch(r"0\.\d{3}", text)]
    assert f"{headline:.3f}" in figures


def test_practically_equal_may_mean_nothing_at_all() -> None:
    figure = plot_workers(table(2), rope=0.0)
    assert any("up to 0" in text for text in words(figure))
    assert "failed" not in words(figure)
    assert len(figure.axes[1].patches) == 0
    assert len(plot_workers(table(2)).axes[1].patches) == 1


def test_short_names_stay_different() -> None:
    for names in ([*(f"{LONG}{number}" for number in range(3)), "short"], [f"{'a' * 20}{m}{'z' * 20}" for m in "mno"]):
        short = shortened(names)
        assert len(set(short.values())) == len(names)
        assert all(len(text) <= 30 for text in short.values())
        assert short.get("short", "short") == "short"
    assert example_names(["12345678-1", "12345678-2"]) == {"12345678-1": "12345678", "12345678-2": "12345678 (2)"}


def test_the_foremost_are_the_first_and_the_last() -> None:
    assert foremost("abcdef", 3) == ["a", "b", "f"]
    assert foremost("ab", 3) == ["a", "b"]
    assert foremost("abc", 1) == ["a"]
