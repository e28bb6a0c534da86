"""The facade: one object that adds examples, trains, validates, predicts, and keeps everything."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias, cast

import attrs

from tsm_training.analysis import BestWorker, Comparison, check_rope, compare, probability_best
from tsm_training.arguments import (
    check_callable,
    check_ids,
    check_limit,
    check_number,
    check_path,
    check_seed,
    check_whole_number,
)
from tsm_training.arrays import Image
from tsm_training.data import (
    ROLES,
    ExampleEdit,
    ExampleList,
    Learning,
    StateChange,
    TrainingExample,
    TrainingStore,
    check_metadata,
)
from tsm_training.documents import TrainingProgress, TrainingResults, WeightsImport
from tsm_training.engine import (
    CrossValidationResults,
    Explanation,
    StopRequest,
    TrainingEngine,
    ValidationResults,
    check_group_by,
    describe_files,
    forgotten,
    nothing_validated,
    own_workers,
)
from tsm_training.ensemble import Prediction
from tsm_training.errors import InvalidArgumentError, NoExamplesError, TsmTrainingError, WeightsFileError
from tsm_training.evaluation.split import split_examples
from tsm_training.images import read_image
from tsm_training.ingest import read_folder, read_manifest, relinked
from tsm_training.learning import LearnedState
from tsm_training.lint import MIN_GROUP, LintReport, lint_store
from tsm_training.progress import ProgressCallback
from tsm_training.storage import TrainingDataManager
from tsm_training.weights import (
    WeightLearner,
    forget,
    read_weights_file,
    reset_state,
    weights_document,
    with_workers,
    write_weights_file,
)
from tsm_training.workers import WorkerPoolLike

__all__ = [
    "EngineFactory",
    "ExampleRow",
    "TrainingManager",
]

EngineFactory: TypeAlias = Callable[[WorkerPoolLike, WeightLearner, TrainingStore], TrainingEngine]
"""Makes an engine of a pool, a learner and a store: the class itself, or `TrainingEngine.using(metric)`."""

ExampleRow: TypeAlias = (
    tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str]]
    | tuple[str | os.PathLike[str], str | os.PathLike[str], str | os.PathLike[str], Mapping[str, Any] | None]
)
"""Paths of source, target and ground truth, and perhaps metadata."""

_DEFAULT_DATABASE: Final = "tsm_training.db"


# Converters, not validators: those would run only after the store was opened.


def _a_pool(value: WorkerPoolLike) -> WorkerPoolLike:
    if isinstance(value, type) or not isinstance(value, WorkerPoolLike):
        raise InvalidArgumentError("worker_pool", value, "an object with execute_parallel(data)")
    return value


def _a_learner(value: WeightLearner) -> WeightLearner:
    if isinstance(value, type) or not isinstance(value, WeightLearner):
        raise InvalidArgumentError("weight_learner", value, "a WeightLearner, such as BayesianWeightLearner()")
    return value


def _a_choice(value: bool | None) -> bool | None:
    if value is not None and type(value) is not bool:
        raise InvalidArgumentError("restore", value, "True, False or None")
    return value


@attrs.frozen(eq=False)
class TrainingManager:
    """Trains an ensemble of image workers on ground truth, and keeps everything in one place.

    Args:
        worker_pool: The ensemble: a `WorkerPool`, or any object with ``execute_parallel(data)``.
        weight_learner: What learns; the host keeps its object and sees it learn.
        db_path: The SQLite file, made if it does not exist; not used where `storage` is given.
        storage: Another store.
        engine_factory: Makes the engine; `TrainingEngine` itself, a subclass, or ``TrainingEngine.using(metric)``.
        restore: Where learner and store hold different learned state, or the learner is kept in another store: True
            takes the store's, False keeps the learner's, None refuses. A learner that has learned nothing and is kept
            nowhere always takes the store's.

    Raises:
        InvalidArgumentError: an argument cannot be what it is meant to be.
        LearnerConflictError: learner and store hold different learned state, or the learner is kept in another store,
            and `restore` is None.
        StorageError: the store cannot be opened.

    A store that was opened for reading only serves for predicting, validating and looking; what would change it raises
    `StorageReadOnlyError` before any work.
    """

    worker_pool: WorkerPoolLike = attrs.field(converter=_a_pool)
    weight_learner: WeightLearner = attrs.field(converter=_a_learner)
    db_path: str | os.PathLike[str] = _DEFAULT_DATABASE
    storage: TrainingStore | None = attrs.field(default=None, kw_only=True)
    engine_factory: EngineFactory = attrs.field(default=TrainingEngine, kw_only=True)
    restore: bool | None = attrs.field(default=None, kw_only=True, repr=False, converter=_a_choice)
    data_manager: TrainingStore = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._open_store(), takes_self=True)
    )
    """The store."""
    training_engine: TrainingEngine = attrs.field(
        init=False, repr=False, default=attrs.Factory(lambda self: self._make_engine(), takes_self=True)
    )
    """The engine."""

    def _open_store(self) -> TrainingStore:
        if self.storage is None:
            return TrainingDataManager(check_path("db_path", self.db_path))
        if isinstance(self.storage, type) or not isinstance(self.storage, TrainingStore):
            raise InvalidArgumentError("storage", self.storage, "a TrainingStore (inherit from that class)")
        return self.storage

    def _make_engine(self) -> TrainingEngine:
        check_callable("engine_factory", self.engine_factory, "TrainingEngine, a subclass, or TrainingEngine.using(…)")
        return self.engine_factory(self.worker_pool, self.weight_learner, self.data_manager)

    def __attrs_post_init__(self) -> None:
        try:
            self.training_engine.learner_storage.attach(self.restore)
            self.training_engine.prepare_learner()
            if self.weight_learner.cell.state.fits:
                self.training_engine.share_fits()
        except BaseException:
            if self.storage is None:
                self.data_manager.close()
            raise

    # --- examples ---

    def add_training_example(
        self,
        source_path: str | os.PathLike[str],
        target_path: str | os.PathLike[str],
        ground_truth_path: str | os.PathLike[str],
        metadata: Mapping[str, Any] | None = None,
    ) -> TrainingExample:
        """Add a triple of picture files, after a look that proves them whole; when this returns, it is stored.

        Args:
            source_path: The picture that gives the colours.
            target_path: The picture that is changed.
            ground_truth_path: The wanted result, of the target's size.
            metadata: Anything that JSON can hold.

        Raises:
            ImageError: a file is missing, unreadable, cut off, too large or no accepted picture.
            ImageSizeMismatchError: target and ground truth differ in size.
            InvalidMetadataError: JSON cannot hold the metadata exactly.
        """
        return self.add_training_examples([(source_path, target_path, ground_truth_path, metadata)])[0]

    def add_training_examples(self, rows: Iterable[ExampleRow]) -> list[TrainingExample]:
        """Add many triples in one transaction: all of them or, if one is faulty, none.

        Args:
            rows: Per example source, target and ground truth path, and perhaps metadata.

        Raises:
            InvalidArgumentError: a row has not three or four entries.
            TsmTrainingError: as for `add_training_example`; with several rows, a note names the row.
        """
        self.data_manager.require_writable()
        if not isinstance(rows, Iterable):
            raise InvalidArgumentError("rows", rows, "tuples (source path, target path, ground truth path[, metadata])")
        rows = list(rows)
        examples = []
        for number, row in enumerate(rows, 1):
            try:
                examples.append(self._checked_example(row))
            except TsmTrainingError as error:
                if len(rows) > 1:
                    error.add_note(f"in row {number} of {len(rows)}{_target_of(row)}; no row was added")
                raise
        if examples:
            self.data_manager.add_examples(examples)
        return examples

    def _checked_example(self, row: ExampleRow) -> TrainingExample:
        if len(row) not in (3, 4):
            raise InvalidArgumentError(
                "row", row, "a tuple (source path, target path, ground truth path) or the same with metadata"
            )
        metadata = check_metadata(row[3] if len(row) == 4 else None)  # noqa: PLR2004 - three paths and metadata
        example = TrainingExample(
            example_id=str(uuid.uuid4()),
            source_path=_absolute("source_path", row[0]),
            target_path=_absolute("target_path", row[1]),
            ground_truth_path=_absolute("ground_truth_path", row[2]),
            created_at=datetime.now(UTC),
            metadata=metadata,
        )
        return attrs.evolve(example, files=describe_files(example, self.training_engine.limits))

    def add_folder(self, root: str | os.PathLike[str]) -> list[TrainingExample]:
        """Add every triple below a folder: files of the same name in ``sources/``, ``targets/`` and ``truths/``.

        Names are compared without their endings, so ``sources/a.jpg`` goes with ``truths/a.png``. All triples are added
        in one transaction, in order of name.

        Raises:
            ManifestError: a folder is missing or empty, or a file has no partner, or two.
            TsmTrainingError: as for `add_training_examples`.
        """
        self.data_manager.require_writable()
        return self.add_training_examples(read_folder(check_path("root", root)))

    def add_manifest(self, csv_path: str | os.PathLike[str]) -> list[TrainingExample]:
        """Add every triple that a CSV file lists.

        The file is UTF-8 with a header; the columns ``source_path``, ``target_path`` and ``ground_truth_path`` are
        needed (relative paths start at the file's own folder), all others become metadata. All triples are added in one
        transaction, in order of row.

        Raises:
            ManifestError: the file cannot be read, or lacks a column or a value.
            TsmTrainingError: as for `add_training_examples`.
        """
        self.data_manager.require_writable()
        return self.add_training_examples(read_manifest(check_path("csv_path", csv_path)))

    def remove_training_example(self, example_id: str) -> None:
        """Remove an example, and forget exactly what was learned from it; sessions and metrics stay.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        self.data_manager.require_writable()
        example = self.data_manager.get_example(example_id)
        digests = self._digests_only_of(example)
        self._change_data(lambda change: self.data_manager.remove_example(example_id, change), digests)

    def replace_ground_truth(self, example_id: str, path: str | os.PathLike[str]) -> TrainingExample:
        """Give an example another ground truth; what was learned from the old one is forgotten.

        Args:
            example_id: Of a stored example.
            path: The new wanted result, of the target's size.

        Raises:
            ExampleNotFoundError: no example has that id.
            ImageError: a file cannot be used.
            ImageSizeMismatchError: target and ground truth differ in size.
        """
        self.data_manager.require_writable()
        old = self.data_manager.get_example(example_id)
        moved = attrs.evolve(old, ground_truth_path=_absolute("path", path))
        files = describe_files(moved, self.training_engine.limits)

        def replaced(stored: TrainingExample) -> TrainingExample:
            return attrs.evolve(
                stored,
                ground_truth_path=moved.ground_truth_path,
                files=files,
                worker_results=None,
                validation_scores=None,
            )

        digests = self._digests_only_of(old) - {files.digest}
        self._change_data(lambda change: self.data_manager.edit_examples({example_id: replaced}, change), digests)
        return self.data_manager.get_example(example_id)

    def _change_data(self, change_data: Callable[[StateChange | None], Learning | None], digests: Set[str]) -> None:
        """Change examples, and forget what was learned from some contents, in one transaction."""
        storage = self.training_engine.learner_storage
        storage.attach()
        if storage.is_kept:
            learning = change_data(storage.committed(lambda state: self._without(state, digests)))
            storage.agreed(cast("Learning", learning))
        else:
            change_data(None)
        if digests:
            self.training_engine.share_fits()

    @staticmethod
    def _without(state: LearnedState, digests: Set[str]) -> LearnedState:
        return attrs.evolve(forget(state, digests), fits=forgotten(state.fits, digests))

    def _digests_only_of(self, example: TrainingExample) -> frozenset[str]:
        """Return the digest of an example's contents, unless another example has the same contents."""
        if example.files is None:
            return frozenset()
        others = (e for e in self.data_manager.iterate_examples() if e.example_id != example.example_id)
        if any(other.files is not None and other.files.digest == example.files.digest for other in others):
            return frozenset()
        return frozenset({example.files.digest})

    def relink(self, root: str | os.PathLike[str]) -> list[TrainingExample]:
        """Find moved picture files below a folder by their contents, and note where they are now.

        Only files that are no longer where they were are looked for.

        Returns:
            The examples whose paths were changed.

        Raises:
            InvalidArgumentError: `root` is no folder.
        """
        self.data_manager.require_writable()
        if not Path(root).is_dir():
            raise InvalidArgumentError("root", os.fspath(root), "an existing folder")
        examples = {example.example_id: example for example in self.data_manager.iterate_examples()}
        changed = relinked(examples.values(), root, self.training_engine.limits.root)
        if changed:
            self.data_manager.edit_examples(
                {e.example_id: _path_edit(examples[e.example_id], e) for e in changed},
                skip_missing=True,
            )
        return changed

    def list_examples(self, limit: int | None = None) -> ExampleList:
        """Return the guide's list of examples, in order of addition; with a limit, only the newest so many.

        Raises:
            InvalidArgumentError: `limit` is not None and not a whole number of at least 1.
        """
        examples = self.data_manager.get_all_examples(limit)
        total = self.data_manager.get_dataset_stats()["total_examples"]
        return {"examples": [example.to_summary() for example in examples], "total": total}

    def lint(
        self,
        rows: Iterable[ExampleRow] | None = None,
        *,
        group_by: str | None = None,
        min_group: int = MIN_GROUP,
        run_workers: bool = False,
    ) -> LintReport:
        """Look for faults in the stored examples, or in candidates before they are added; nothing is changed.

        Args:
            rows: Candidates, as for `add_training_examples`; they are also compared with what is stored. None for the
                stored examples.
            group_by: A metadata key: groups of fewer than `min_group` examples are reported.
            min_group: At least 1.
            run_workers: Run the workers where the store has no previews of their pictures (it has none of candidates),
                to find truths that they made themselves. That takes the time of an evaluation.

        Returns:
            The findings, the worst kinds first; `tsm_training.lint` lists the kinds.

        Raises:
            InvalidArgumentError: `rows` cannot be gone through, or another argument is not what it must be. A faulty
                example or row is a finding.
            StorageError: the store cannot be read.
            WorkerNotIsolatableError: workers are to be run, and one cannot be in the way that the pool's runner wants.
            ExecutorError: workers are to be run, and nothing can be started.
        """
        return lint_store(self.training_engine, rows, group_by=group_by, min_group=min_group, run_workers=run_workers)

    # --- training ---

    def train(
        self,
        num_examples: int | None = None,
        epochs: int = 1,
        validation_split: float = 0.2,
        verbose: bool = True,
        *,
        seed: int = 0,
        reevaluate: bool = False,
        on_progress: ProgressCallback | None = None,
        should_stop: StopRequest | None = None,
        group_by: str | None = None,
    ) -> TrainingResults:
        """Hold some examples out, learn from the others, and judge the result on those held out.

        Args:
            num_examples: Use only the newest so many; None for all.
            epochs: How many passes, at least 1; each absorbs a share alpha of what is left to learn.
            validation_split: The fraction to hold out, in [0, 1); examples with the same target stay together.
            verbose: Show progress on standard error.
            seed: Another seed holds out other examples.
            reevaluate: Run workers even where results are stored.
            on_progress: Called with a `Progress`, in this thread.
            should_stop: Asked several times a second, in this thread, whether to end.
            group_by: Also learn weights of their own for the examples of each value under this metadata key; `predict`
                uses them with ``group=``. Groups are those of the last training.

        Returns:
            The session and its validation; where nothing was held out, the validation's means are None.

        Raises:
            InvalidArgumentError: an argument is outside its range; nothing was started.
            NoExamplesError: there is nothing to train on.
            TsmTrainingError: as for `TrainingEngine.train_batch`.
        """
        num_examples = check_limit("num_examples", num_examples)
        epochs = check_whole_number("epochs", epochs)
        _check_split(validation_split)
        check_callable("on_progress", on_progress, "a function of a Progress, or None", optional=True)
        check_callable("should_stop", should_stop, "a function without arguments, or None", optional=True)
        seed = check_seed(seed)
        check_group_by(group_by)
        self.data_manager.require_writable()
        examples = self.data_manager.get_all_examples(num_examples)
        if not examples:
            raise NoExamplesError
        # Examples whose files cannot even be looked at are given along: the session lists why it skipped them.
        known, unusable = self.training_engine.evaluator.with_files(examples)
        split = split_examples(known, validation_split, seed)
        session = self.training_engine.train_batch(
            [*split.training, *(e for e in examples if e.example_id in unusable)],
            epochs,
            verbose,
            validation_examples=split.validation,
            validation_split=float(validation_split),
            seed=seed,
            reevaluate=reevaluate,
            on_progress=on_progress,
            should_stop=should_stop,
            group_by=group_by,
        )
        validation: Any = session.validation or nothing_validated()
        return {"session": session.to_summary(), "validation": validation}

    def validate(
        self,
        example_ids: Sequence[str] | None = None,
        *,
        full: bool = False,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ValidationResults:
        """Judge the present weights on examples; nothing is learned.

        Args:
            example_ids: Which ones; None for all.
            full: Run the workers again and judge the real blended pictures instead of their previews.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            ExampleNotFoundError: an id is not stored.
            NoExamplesError: there are no examples.
            TsmTrainingError: as for `TrainingEngine.validate`.
        """
        examples = self._examples(example_ids)
        return self.training_engine.validate(examples, full=full, verbose=verbose, on_progress=on_progress)

    def _examples(self, example_ids: Sequence[str] | None) -> list[TrainingExample]:
        if example_ids is None:
            return self.data_manager.get_all_examples()
        return [self.data_manager.get_example(example_id) for example_id in check_ids("example_ids", example_ids)]

    def cross_validate(
        self,
        k: int = 5,
        epochs: int = 10,
        *,
        seed: int = 0,
        group_by: str | None = None,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> CrossValidationResults:
        """Judge training on few examples: each is held out once, in one of `k` folds, and no worker runs twice.

        What was learned stays as it is; each fold trains a copy of the learner that starts from nothing.

        Args:
            k: How many folds, at least 2; fewer where there are fewer targets.
            epochs: How many passes each training makes, at least 1.
            seed: Another seed divides otherwise.
            group_by: Also learn weights of their own for the examples of each value under this metadata key.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Raises:
            InvalidArgumentError: an argument is out of its range, or all examples have the same target.
            NoExamplesError: there are no examples.
            TsmTrainingError: as for `TrainingEngine.validate`.
        """
        return self.training_engine.cross_validate(
            self.data_manager.get_all_examples(),
            k,
            epochs,
            seed=seed,
            group_by=group_by,
            verbose=verbose,
            on_progress=on_progress,
        )

    # --- asking about what was learned ---

    def compare(
        self, a: str, b: str, *, rope: float | None = None, example_ids: Sequence[str] | None = None
    ) -> Comparison:
        """Tell whether one worker is really better than another, from all that they did on the same examples.

        Args:
            a: A worker's id; a positive difference speaks for it.
            b: Another worker's id.
            rope: Which difference in accuracy is practically none, at least 0 and below 1; the engine's unless given.
            example_ids: On which examples; None for all.

        Raises:
            InvalidArgumentError: no results of such a worker, `a` is `b`, or `rope` is out of its range.
            ExampleNotFoundError: an id is not stored.
            NoExamplesError: there are no examples.
            TsmTrainingError: as for `TrainingEngine.validate`.
        """
        rope = self.training_engine.rope if rope is None else check_rope(rope)
        self._check_pair(a, b)
        return compare(self.training_engine.score_table(self._examples(example_ids)), a, b, rope=rope)

    def _check_pair(self, a: object, b: object) -> None:
        """Find a slip before any worker runs."""
        workers = own_workers(self.worker_pool)
        ids = [worker.worker_id for worker in workers or ()]
        for name, value in (("a", a), ("b", b)):
            if not isinstance(value, str) or (ids and value not in ids):
                raise InvalidArgumentError(name, value, f"the id of a worker ({', '.join(ids) or 'text'})")
        if a == b:
            raise InvalidArgumentError("b", b, "another worker than a")

    def probability_best(self, *, example_ids: Sequence[str] | None = None) -> BestWorker:
        """Tell for each worker how probable it is that it is the best one, from all that they did on the same examples.

        Args:
            example_ids: On which examples; None for all.

        Raises:
            ExampleNotFoundError: an id is not stored.
            NoExamplesError: there are no examples.
            TsmTrainingError: as for `TrainingEngine.validate`.
        """
        return probability_best(self.training_engine.score_table(self._examples(example_ids)))

    def explain(self, *, tolerance: float | None = None, example_ids: Sequence[str] | None = None) -> Explanation:
        """Tell what each worker brings to the ensemble and what it costs, and how small an ensemble would do.

        Args:
            tolerance: How much accuracy the smaller ensemble may lose, at least 0 and below 1; the engine's `rope`
                unless given.
            example_ids: On which examples; None for all.

        Raises:
            InvalidArgumentError: `tolerance` is out of its range.
            ExampleNotFoundError: an id is not stored.
            NoExamplesError: there are no examples.
            TsmTrainingError: as for `TrainingEngine.explain`.
        """
        tolerance = self.training_engine.rope if tolerance is None else tolerance
        return self.training_engine.explain(self._examples(example_ids), tolerance=tolerance)

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        title: str = "Training report",
        example_ids: Sequence[str] | None = None,
        rows: int = 3,
        check_dataset: bool = True,
    ) -> Path:
        """Write everything about the newest training into one HTML file, which needs nothing else and can be shown.

        It holds the verdict, all contenders, the weights with their intervals, the learning curve, a contact sheet,
        what each worker brings, what a check of the dataset finds, failures, settings and versions. It loads nothing
        and runs no script. Names of folders are left out; names of files, workers and what they said are in it.

        Workers run on the examples of the contact sheet, and on those held out where results are not stored.

        Args:
            path: The file, in an existing folder; replaced whole if it exists.
            title: Of the page.
            example_ids: Which examples to show in pictures; unless given, those of the newest validation on which the
                ensemble was worst and best, or the first ones where nothing was validated.
            rows: How many of the worst and how many of the best, at least 1.
            check_dataset: Look for faults in the examples too; that reads all picture files.

        Returns:
            The path of the file.

        Raises:
            InvalidArgumentError: an argument is not what it must be; nothing was written.
            ExampleNotFoundError: an id is not stored.
            ImageError: an example that was asked for cannot be read.
            OSError: the file cannot be written; what was there before is untouched.
            TsmTrainingError: as for `explain`.
        """
        from tsm_training.report import report_page, write_report  # noqa: PLC0415 - few programs write reports

        file = Path(check_path("path", path))
        if not file.parent.is_dir() or file.is_dir():
            raise InvalidArgumentError("path", str(file), "a file in an existing folder")
        rows = check_whole_number("rows", rows)
        if example_ids is not None:
            example_ids = check_ids("example_ids", example_ids)
            self._examples(example_ids)  # says what is wrong with them before any work
        findings = self.lint() if check_dataset else None
        page = report_page(self.training_engine, title=title, findings=findings, example_ids=example_ids, rows=rows)
        write_report(file, page)
        return file

    # --- answering ---

    def predict(
        self,
        source: str | os.PathLike[str] | Image,
        target: str | os.PathLike[str] | Image,
        *,
        run_all: bool = False,
        group: str | float | None = None,
    ) -> Prediction:
        """Return the ensemble's answer to a new request.

        Args:
            source: The picture that gives the colours: a file, or an array uint8, H×W×3, BGR.
            target: The picture to change, likewise.
            run_all: Run workers too whose share is below 0.001.
            group: The request's value under the metadata key by which the training was grouped. A value that no example
                has, and None, mean the shares of all examples.

        Raises:
            ImageError: a file cannot be used.
            InvalidArgumentError: an array is no picture, or `group` is given and the training was not grouped.
            PredictionError: no worker gave a usable picture; it holds every reason.
        """
        return self.training_engine.predict(self._picture(source), self._picture(target), run_all=run_all, group=group)

    def _picture(self, value: str | os.PathLike[str] | Image) -> Image:
        if isinstance(value, (str, bytes, os.PathLike)):
            return read_image(value, self.training_engine.limits)
        return value

    def get_training_progress(self) -> TrainingProgress:
        """Return the guide's progress document: counts, and what is known about every worker."""
        self.training_engine.prepare_learner()
        weights = self.weight_learner.get_all_weights()
        statistics = self.weight_learner.get_all_statistics()
        return {
            "dataset_stats": self.data_manager.get_dataset_stats(),
            "worker_stats": {
                worker_id: {"current_weight": weights[worker_id], "stats": statistics[worker_id]}
                for worker_id in weights
            },
            "current_weights": weights,
        }

    # --- weights ---

    def export_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the learned weights to a file that `import_weights` brings back exactly.

        What workers have learned from the examples goes with them: samples of colours of the training pictures (about
        12 kB per example, no layout), and what was fitted to them.

        Raises:
            WeightsFileError: the file cannot be written; what was there before is untouched (unless it is only the
                folder that could not be synced: then the new file is in its place).
        """
        learner = self.weight_learner
        document = weights_document(
            learner.cell.state,
            learner.get_all_weights(),
            learner.alpha,
            getattr(learner, "prior_strength", None),
            datetime.now(UTC),
            fits=self.training_engine.exported_fits(),
        )
        write_weights_file(check_path("path", path), document)

    def import_weights(self, path: str | os.PathLike[str]) -> WeightsImport:
        """Replace what was learned by a weights file, which is checked whole before anything changes.

        A file that holds weights only gives each worker that weight as its prior. Workers that have learned answer at
        once with the file's fits; the next training fits them on the file's observations and the own examples together,
        until `reset_weights` or another import.

        Raises:
            WeightsFileError: the file is faulty, was learned with another prior strength, or names no worker here.
            TrainingInProgressError: this learner is being trained by another call.
        """
        self.data_manager.require_writable()
        file = read_weights_file(check_path("path", path))
        strength = getattr(self.weight_learner, "prior_strength", None)
        if file.posterior is not None and file.prior_strength != strength:
            raise WeightsFileError(
                file.path,
                f"was learned with {file.prior_strength!r}, the learner has {strength!r}: make the learner with the "
                "same prior_strength, or remove 'posterior' from the file to import its weights as priors",
                "prior_strength",
            )
        self.training_engine.prepare_learner()
        workers = own_workers(self.worker_pool)
        trainable = self.training_engine.trainables.workers
        # What earlier imports named besides is not here either.
        ids = sorted(w.worker_id for w in workers) if workers else sorted(self.weight_learner.cell.state.bases)
        known = frozenset(ids)
        if known and not known & file.weights.keys():
            raise WeightsFileError(file.path, f"names none of the workers here ({', '.join(sorted(known))})", "weights")
        with self.weight_learner.cell:
            fits = self.training_engine.imported_fits(file.path, file.fits)
            state = attrs.evolve(file.state(), fits=fits)
            known_ids = [worker_id for worker_id in ids if worker_id not in trainable or worker_id in fits]
            self.training_engine.learner_storage.change(
                lambda _held: with_workers(state, known_ids, self.weight_learner.prior_weight)
            )
        self.training_engine.share_fits()
        return WeightsImport(
            path=file.path,
            alpha=file.alpha,
            imported=tuple(sorted(file.weights.keys() & known)),
            dormant=tuple(sorted(file.weights.keys() - known)),
            missing=tuple(sorted(known - file.weights.keys())),
        )

    def reset_weights(self, default_weight: float = 1.0) -> None:
        """Forget everything that was learned, and give every known worker this weight; examples and history stay.

        Raises:
            InvalidArgumentError: `default_weight` is not a number above 0.
            TrainingInProgressError: this learner is being trained by another call.
        """
        self.data_manager.require_writable()
        check_number("default_weight", default_weight, 0.0, 1e6, "a number above 0 and at most 1e6")
        with self.weight_learner.cell:
            self.training_engine.learner_storage.change(lambda state: reset_state(state, default_weight))
        self.training_engine.share_fits()

    # --- other learners ---

    def with_learner(self, weight_learner: WeightLearner) -> TrainingManager:
        """Return a manager of the same pool, store and engine factory with another learner.

        ``manager.with_learner(learner.with_alpha(0.1))`` changes the rate; with a fork, trials leave the stored weights
        alone. Both managers use one store: closing one closes it for both.
        """
        return attrs.evolve(self, weight_learner=weight_learner, storage=self.data_manager, restore=None)

    def adopt(self, weight_learner: WeightLearner) -> TrainingManager:
        """Take over what a fork has learned: into this manager's learner, and into the store.

        Returns:
            A manager whose learner has the fork's settings over this manager's own learned state, so that the host's
            learner object sees it too.

        Raises:
            TrainingInProgressError: this learner is being trained by another call.
        """
        self.data_manager.require_writable()
        state = weight_learner.cell.state
        with self.weight_learner.cell:
            self.training_engine.learner_storage.change(lambda _held: state)
        self.training_engine.share_fits()
        return self.with_learner(weight_learner.with_cell(self.weight_learner.cell))

    # --- the end ---

    def close(self) -> None:
        """Close the store; closing twice is fine."""
        self.data_manager.close()

    def __enter__(self) -> TrainingManager:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


def _target_of(row: Sequence[object]) -> str:
    """Return the words that name a row by its target, or none if it has no such path."""
    with contextlib.suppress(TypeError, LookupError):  # it may be wrong in any way
        return f" (target {os.fspath(cast('str', row[1]))!r})"
    return ""


def _absolute(argument: str, path: object) -> str:
    text = check_path(argument, path)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(argument, text, "a path that UTF-8 can hold, since it is stored as text") from None
    return os.path.abspath(text)  # noqa: PTH100 - Path.absolute() would keep ".."


def _path_edit(old: TrainingExample, new: TrainingExample) -> ExampleEdit:
    fields = [f"{role}_path" for role in ROLES]
    moved = {field: getattr(new, field) for field in fields if getattr(new, field) != getattr(old, field)}
    return lambda stored: attrs.evolve(stored, **moved)


def _check_split(value: object) -> None:
    expected = "a number of at least 0 and below 1"
    check_number("validation_split", value, 0.0, 1.0, expected, low_allowed=True)
    if value == 1:
        raise InvalidArgumentError("validation_split", value, expected)
