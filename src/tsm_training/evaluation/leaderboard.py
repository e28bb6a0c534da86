"""The table that people ask for first: every worker and every baseline on the same held-out pictures."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import attrs

from tsm_training.analysis import MIN_EXAMPLES, Baseline, Posterior, ScoreTable
from tsm_training.data import Evaluation, TrainingSession
from tsm_training.errors import InvalidArgumentError, MissingExtraError
from tsm_training.evaluation.baselines import shares_for
from tsm_training.evaluation.evaluated import EvaluatedExample, Previews, mean
from tsm_training.evaluation.evaluator import by_contents
from tsm_training.evaluation.results import ExampleJudgement, Validation
from tsm_training.evaluation.workbench import Workbench
from tsm_training.weights import LearnerStatistics

_ENSEMBLE: Final = Baseline.TRAINED.label


@attrs.frozen
class LeaderboardRow:
    """What one worker, or one baseline, did on the held-out examples."""

    name: str
    """A worker's id; otherwise ``trained ensemble``, ``equal weights``, ``in use before`` or ``untouched target``."""
    kind: Literal["ensemble", "worker", "baseline"]
    similarity: float | None
    """Mean similarity of its pictures to the ground truth, in [0, 1], each target counting once; None where no picture
    of it can be judged."""
    low: float | None
    """The lower end of the 90 % interval of `similarity`; None with too few targets."""
    high: float | None
    """Its upper end."""
    weight: float | None = None
    """The learned weight, 1 being average; None for what is no worker."""
    weight_low: float | None = None
    """The lower end of the weight's 90 % interval."""
    weight_high: float | None = None
    """Its upper end."""
    share: float | None = None
    """The worker's part in the ensemble's picture, in [0, 1]."""
    gain: float | None = None
    """By how much the trained ensemble is better, on the pictures that both have."""
    failures: int | None = None
    """On how many of the held-out examples the worker gave no usable picture."""
    seconds: float | None = None
    """Mean wall-clock time of the worker per picture; None where it is not known."""


@attrs.frozen
class Leaderboard:
    """Every worker and every baseline on the examples that the newest training held out, the best first."""

    rows: tuple[LeaderboardRow, ...]
    num_examples: int
    """How many held-out examples these are."""
    num_targets: int
    """How many different targets they have: each counts once."""
    best_single: str | None = None
    """The id of the best single worker, chosen on the examples that were learned from."""
    verdict: str | None = None
    """What the training's verdict says; None before any training."""

    def __str__(self) -> str:
        from tsm_training.report.notebook import shown_leaderboard  # noqa: PLC0415 - where results become text

        return str(shown_leaderboard(self))

    def _repr_html_(self) -> str:
        from tsm_training.report.notebook import shown_leaderboard  # noqa: PLC0415 - where results become HTML

        return shown_leaderboard(self).to_html()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it: the rows as dictionaries under ``rows``, and the other fields."""
        return attrs.asdict(self)

    def to_frame(self) -> Any:
        """Return the rows as a `pandas.DataFrame` with the fields of `LeaderboardRow` as columns, and a default index.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise MissingExtraError("tables", "Leaderboard.to_frame") from error
        columns = [field.name for field in attrs.fields(LeaderboardRow)]
        return pandas.DataFrame([attrs.astuple(row) for row in self.rows], columns=columns)


def leaderboard(bench: Workbench, session: TrainingSession | None) -> Leaderboard:
    """Return the table for the newest training; no worker runs, what is not stored is missing.

    Args:
        bench: Holds the learner, the store, and what knows which results are still good.
        session: The newest completed training that was no trial; None before any.
    """
    validation = _validation(session)
    judged = {each["example_id"]: each for each in validation.per_example if each["is_unseen"]}
    items = _stored(bench, list(judged))
    rows = [judged[item.example.example_id] for item in items]
    statistics = bench.storage.learner.get_all_statistics()
    table = ScoreTable(
        example_ids=[item.example.example_id for item in items],
        groups=[item.target for item in items],
        scores={
            **{each.label: _column(rows, each) for each in _baselines(validation)},
            **_worker_columns(bench, items, statistics),
        },
    )
    if (best := validation.verdict["best_single"]) in statistics and not any(table.scores[best or ""]):
        # A later trial has fitted it otherwise, and scored it anew; the training noted what it did then.
        table = attrs.evolve(table, scores={**table.scores, str(best): _column(rows, Baseline.BEST_SINGLE)})
    shares = shares_for(bench.storage.learner, sorted(statistics), None) if statistics else {}
    found = [
        *(_baseline_row(table, each) for each in _baselines(validation)),
        *(
            _worker_row(table, worker_id, known, shares.get(worker_id), [item.evaluations for item in items])
            for worker_id, known in statistics.items()
        ),
    ]
    kinds = ("ensemble", "worker", "baseline")
    found.sort(key=lambda row: (-(row.similarity or 0.0), kinds.index(row.kind), -(row.weight or 0.0), row.name))
    sentence = validation.verdict["sentence"] if validation.per_example else None
    return Leaderboard(tuple(found), len(items), len(set(table.groups)), validation.verdict["best_single"], sentence)


def _validation(session: TrainingSession | None) -> Validation:
    try:
        return Validation.from_document({} if session is None else session.validation or {})
    except InvalidArgumentError:  # no training, one without a validation, or one of another application
        return Validation()


def _stored(bench: Workbench, example_ids: Sequence[str]) -> list[EvaluatedExample]:
    """Return the examples that are still there, with the results of workers that are stored and still good."""
    evaluator, trainables = bench.evaluator, bench.trainables
    wanted = frozenset(example_ids)
    examples = [e for e in evaluator.store.iterate_examples() if e.example_id in wanted and e.files is not None]
    copies = by_contents(examples)
    fits = trainables.current(bench.storage.learner.cell.snapshot.fits)
    fixed = evaluator.fixed_fingerprints()

    def fingerprint(worker_id: str, digest: str) -> str | None:
        fit = fits.get(worker_id)
        if fit is None:
            return fixed(worker_id)
        return fit.score_fingerprint(copies[digest][0], is_sampled=trainables.workers[worker_id].is_color_map)

    found = evaluator.stored(copies, fingerprint)
    return [EvaluatedExample(e, e.known_files.digest, found.get(e.known_files.digest, {})) for e in examples]


def _worker_columns(
    bench: Workbench, items: Sequence[EvaluatedExample], worker_ids: Mapping[str, object]
) -> dict[str, list[float | None]]:
    """Return what each worker's small picture scores on each example; its stored accuracy where none is kept."""
    previews = Previews(bench.evaluator.store)
    columns: dict[str, list[float | None]] = {worker_id: [] for worker_id in worker_ids}
    for item in items:
        scores: dict[str, float] = item.valid
        if (pictures := previews.get(item)) is not None:
            score = bench.evaluator.judge.scorer(pictures.ground_truth)
            scores |= {worker_id: score(picture, worker_id) for worker_id, picture in pictures.outputs.items()}
        for worker_id, column in columns.items():
            column.append(scores.get(worker_id))
    return columns


def _baselines(validation: Validation) -> list[Baseline]:
    """Return the baselines that are no single worker; what was in use before only where it is not equal weights."""
    wanted = {Baseline.TRAINED, Baseline.EQUAL_WEIGHTS, Baseline.PREVIOUS, Baseline.UNTOUCHED}
    return [each for each in validation.shown_baselines if each in wanted & validation.baselines.keys()]


def _column(rows: Sequence[ExampleJudgement], name: Baseline) -> list[float | None]:
    return [row["scores"].get(name) for row in rows]


def _measured(table: ScoreTable, name: str) -> dict[str, Any]:
    """Return similarity, interval and the ensemble's gain of one column."""
    column = table.column(name)
    means = table.group_means(column)
    low, high = Posterior.of(means).interval() if len(means) >= MIN_EXAMPLES else (None, None)
    gain = None
    if name != _ENSEMBLE and _ENSEMBLE in table.scores:
        pairs = zip(table.column(_ENSEMBLE), column, strict=True)
        gain = mean(table.group_means([None if a is None or b is None else a - b for a, b in pairs]))
    return {"similarity": mean(means), "low": low, "high": high, "gain": gain}


def _baseline_row(table: ScoreTable, name: Baseline) -> LeaderboardRow:
    measured = _measured(table, name.label)
    return LeaderboardRow(name.label, "ensemble" if name is Baseline.TRAINED else "baseline", **measured)


def _worker_row(
    table: ScoreTable,
    worker_id: str,
    known: LearnerStatistics,
    share: float | None,
    results: Sequence[Mapping[str, Evaluation]],
) -> LeaderboardRow:
    done = [each[worker_id] for each in results if worker_id in each]
    seconds = math.fsum(each.seconds for each in done)
    return LeaderboardRow(
        name=worker_id,
        kind="worker",
        weight=known["weight"],
        weight_low=known["credible_interval"][0],
        weight_high=known["credible_interval"][1],
        share=share,
        failures=sum(each.accuracy is None for each in done) if done else None,
        seconds=seconds / len(done) if seconds else None,
        **_measured(table, worker_id),
    )
