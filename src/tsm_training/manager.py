"""The facade: one object that adds examples, trains, validates, predicts, and keeps everything."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import attrs

from tsm_training.analysis import BestWorker, Comparison, check_rope, compare, probability_best
from tsm_training.arguments import (
    check_callable,
    check_choice,
    check_ids,
    check_limit,
    check_number,
    check_path,
    check_seed,
    check_whole_number,
)
from tsm_training.arrays import ChannelOrder
from tsm_training.data import (
    ROLES,
    ExampleEdit,
    ExampleList,
    HeldState,
    StateChange,
    StateDocuments,
    TrainingExample,
    TrainingStore,
)
from tsm_training.documents import TrainingProgress, TrainingResults, WeightsImport
from tsm_training.engine import (
    CrossValidationResults,
    Explanation,
    FoundLooks,
    Leaderboard,
    StopRequest,
    TrainingEngine,
    Validation,
    ValidationResults,
    own_workers,
)
from tsm_training.ensemble import Prediction, unknown_group_text
from tsm_training.errors import InvalidArgumentError, LearnerMismatchError, ManifestError, WeightsFileError
from tsm_training.evaluation import ShownDocument, Split, TrainingOptions, split_examples, without
from tsm_training.images import PictureLike, picture_and_exif
from tsm_training.ingest import (
    USUAL_PATTERN,
    ExampleRow,
    Listing,
    absolute_path,
    describe_files,
    examples_of,
    missing_paths,
    read_folder,
    read_manifest,
    relinked,
)
from tsm_training.learning import WEIGHTS_FORMAT_VERSION, WeightsDocument, read_weights_file, write_weights_file
from tsm_training.progress import ProgressCallback, reporting
from tsm_training.storage import TrainingDataManager
from tsm_training.text import did_you_mean
from tsm_training.weights import BayesianWeightLearner, Snapshot, WeightLearner
from tsm_training.workers import WorkerPool, WorkerPoolLike

if TYPE_CHECKING:
    from tsm_training.grading import FolderPrediction
    from tsm_training.lint import LintReport

__all__ = ["EngineFactory", "ExampleRow", "TrainingManager"]

EngineFactory: TypeAlias = Callable[[WorkerPoolLike, WeightLearner, TrainingStore], TrainingEngine]
"""Makes an engine of a pool, a learner and a store: the class itself, or `TrainingEngine.using(metric)`."""


# Converters, not validators: those would run only after the store was opened.


def _built_in_pool() -> WorkerPool:
    from tsm_training.color_transfer import create_color_transfer_workers  # noqa: PLC0415 - not every host needs them

    pool = WorkerPool()
    for worker in create_color_transfer_workers():
        pool.register_worker(worker)
    return pool


def _a_pool(value: WorkerPoolLike) -> WorkerPoolLike:
    if isinstance(value, type) or not isinstance(value, WorkerPoolLike):
        raise InvalidArgumentError("worker_pool", value, "an object with execute_parallel(data)")
    return value


def _a_learner(value: WeightLearner) -> WeightLearner:
    if isinstance(value, type) or not isinstance(value, WeightLearner):
        raise InvalidArgumentError("weight_learner", value, "a WeightLearner, such as BayesianWeightLearner()")
    return value


def _usable(learner: WeightLearner, state: Any, path: str) -> Any:
    """Return a state that a weights file held, if the learner can say something about it.

    Raises:
        WeightsFileError: it cannot.
    """
    try:
        learner.shares(state, sorted(learner.statistics(state)))
    except Exception as error:
        reason = f"holds what the learner cannot use ({type(error).__name__}: {error})"
        raise WeightsFileError(path, reason, "learner") from error
    return state


def _moved_to(paths: Mapping[str, Any]) -> ExampleEdit:
    return lambda stored: attrs.evolve(stored, **paths)


def _a_choice(value: bool | None) -> bool | None:
    if value is not None and type(value) is not bool:
        raise InvalidArgumentError("restore", value, "True, False or None")
    return value


@attrs.frozen(eq=False)
class TrainingManager:
    """Trains an ensemble of image workers on ground truth, and keeps everything in one place.

    Args:
        worker_pool: The ensemble: a `WorkerPool`, or any object with ``execute_parallel(data)``. Unless given, the
            built-in workers.
        weight_learner: What learns; the host keeps its object and sees it learn. Unless given, a new
            `BayesianWeightLearner`.
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

    worker_pool: WorkerPoolLike = attrs.field(factory=_built_in_pool, converter=_a_pool)
    weight_learner: WeightLearner = attrs.field(factory=BayesianWeightLearner, converter=_a_learner)
    db_path: str | os.PathLike[str] = "tsm_training.db"
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
            if self.weight_learner.cell.snapshot.fits:
                self.training_engine.share_fits()
        except BaseException:
            if self.storage is None:
                self.data_manager.close()
            raise

    def __str__(self) -> str:
        from tsm_training.report.notebook import shown_engine  # noqa: PLC0415 - where results become text

        return str(shown_engine(self.training_engine))

    def _repr_html_(self) -> str:
        from tsm_training.report.notebook import shown_engine  # noqa: PLC0415 - where results become HTML

        return shown_engine(self.training_engine).to_html()

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
        """Add many triples in one transaction: all of them or, if one is faulty, none; as often as they are given.

        Args:
            rows: Per example source, target and ground truth path, and perhaps metadata.

        Raises:
            InvalidArgumentError: a row has not three or four entries.
            TsmTrainingError: as for `add_training_example`; notes name its row and all that is wrong besides.
        """
        self.data_manager.require_writable()
        examples = examples_of(rows, self.training_engine.limits)
        if examples:
            self.data_manager.add_examples(examples)
        return examples

    def add_folder(
        self,
        root: str | os.PathLike[str],
        *,
        pattern: str = USUAL_PATTERN,
        on_error: Literal["raise", "skip"] = "raise",
        duplicates: Literal["skip", "add"] = "skip",
    ) -> list[TrainingExample]:
        """Add every triple below a folder: files of the same name in ``sources/``, ``targets/`` and ``truths/``.

        Names are compared without their endings, so ``sources/a.jpg`` goes with ``truths/a.png``, and where that leaves
        no doubt without regard to case and to how accents are encoded. All triples are added in one transaction, in
        order of name, which becomes their metadata. Hidden files, those of the system, and what lies directly in
        `root` and is no picture (a list, a database) are left alone; nothing else is passed over without a warning.

        Args:
            root: The folder.
            pattern: How its files are named, with ``{name}`` and ``{role}`` once each, and ``/`` between folders;
                ``.*`` at the end stands for any ending of a picture. ``"{name}_{role}.jpg"`` takes files side by side.
                A role is written source, target, truth or ground_truth, in any case, plural or not.
            on_error: "raise" for one error that names everything that is wrong; "skip" to add the rest, and name it in
                a warning.
            duplicates: "skip" to leave out triples of which the same contents are stored already, so that a script may
                run twice; "add" to add them again.

        Returns:
            An example for each triple: the new one, or the stored one with the same contents. The paths of a stored one
            whose files are gone are changed to the new ones.

        Raises:
            InvalidArgumentError: an argument is not what it must be.
            ManifestError: the folder cannot be read, one of the three is missing, or something in it is wrong: a file
                without partners, or with several that may be meant, a subfolder, a picture that cannot be used. Its
                `faults` name all of it; nothing was added.

        Warns:
            UserWarning: something was passed over: faults that are skipped, files that are no pictures, pictures and
                folders beside the three, triples that are stored already with other metadata.
        """
        check_choice("on_error", on_error, "raise", "skip")
        check_choice("duplicates", duplicates, "skip", "add")
        self.data_manager.require_writable()
        return self._add_listed(read_folder(check_path("root", root), pattern), on_error, duplicates)

    def add_manifest(
        self,
        csv_path: str | os.PathLike[str],
        *,
        on_error: Literal["raise", "skip"] = "raise",
        duplicates: Literal["skip", "add"] = "skip",
    ) -> list[TrainingExample]:
        """Add every triple that a CSV file lists.

        The file has a header and is UTF-8 or UTF-16; commas, semicolons or tabs separate its columns, blanks around
        names and values do not count. The columns ``source_path``, ``target_path`` and ``ground_truth_path`` are needed
        (``source``, ``Targets`` or ``truth`` will do too; relative paths start at the file's own folder), all others
        become metadata, as text. All triples are added in one transaction, in order of row.

        For `on_error`, `duplicates`, and what is returned, see `TrainingManager.add_folder`.

        Raises:
            InvalidArgumentError: an argument is not what it must be.
            ManifestError: the file cannot be read, lacks a column, or something in it is wrong: a value is missing, a
                picture cannot be used. Its `faults` name all of it by row and line; nothing was added.

        Warns:
            UserWarning: something was passed over: faults that are skipped, triples that are stored already with other
                metadata.
        """
        check_choice("on_error", on_error, "raise", "skip")
        check_choice("duplicates", duplicates, "skip", "add")
        self.data_manager.require_writable()
        return self._add_listed(read_manifest(check_path("csv_path", csv_path)), on_error, duplicates)

    def _add_listed(self, listing: Listing, on_error: str, duplicates: str) -> list[TrainingExample]:
        examples, passed_over = listing.examples(self.training_engine.limits, skips_faults=on_error == "skip")
        known: dict[str, TrainingExample] = {}
        if duplicates == "skip":
            found = self.data_manager.find_examples(example.known_files.digest for example in examples)
            known = {example.known_files.digest: example for example in reversed(found)}
        new, moved = [], {}
        for number, example in enumerate(examples):
            digest = example.known_files.digest
            same = known.setdefault(digest, example) if duplicates == "skip" else example
            if same is example:
                new.append(example)
            elif same.metadata != example.metadata:
                reason = f"has the contents of example {same.example_id}, whose metadata stay: {same.metadata}"
                passed_over.append((example.target_path, reason))
            if missing_paths(same):
                paths = {f"{role}_path": getattr(example, f"{role}_path") for role in ROLES}
                moved[same.example_id] = _moved_to(paths)
                same = known[digest] = attrs.evolve(same, **paths)
            examples[number] = same
        if passed_over:  # before anything is stored, for who makes errors of warnings
            said = ManifestError(listing.path, "passed over", tuple(passed_over)).told(len(passed_over))
            warnings.warn(said, stacklevel=3)
        if new:
            self.data_manager.add_examples(new)
        if moved:
            self.data_manager.edit_examples(moved, skip_missing=True)
        return examples

    def remove_training_example(self, example_id: str) -> None:
        """Remove an example, and forget exactly what was learned from it; sessions and metrics stay.

        Raises:
            ExampleNotFoundError: no example has that id.
        """
        self.data_manager.require_writable()
        self._forgetting(lambda change: self.data_manager.remove_example(example_id, change))

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
        truth = absolute_path("path", path)
        files = describe_files(attrs.evolve(old, ground_truth_path=truth), self.training_engine.limits)
        replaced: ExampleEdit = functools.partial(
            attrs.evolve, ground_truth_path=truth, files=files, worker_results=None, validation_scores=None
        )
        self._forgetting(lambda change: self.data_manager.edit_examples({example_id: replaced}, change))
        return self.data_manager.get_example(example_id)

    def _forgetting(self, commit: Callable[[StateChange], StateDocuments | None]) -> None:
        """Change examples, and forget what was learned from contents that go with them, in one transaction."""
        learner = self.weight_learner
        self.training_engine.learner_storage.forget(commit, lambda before, held: without(learner, before, held.gone))
        self.training_engine.share_fits()

    def relink(self, root: str | os.PathLike[str]) -> list[TrainingExample]:
        """Find moved picture files below a folder by their contents, and note where they are now.

        Only files that are no longer where they were are looked for. Examples that another application stored, with
        paths that are relative or of another machine, are found by these paths: ``app/static/a.png`` is looked for as
        that below `root`, then as ``static/a.png``, then as ``a.png``; all three files of an example must be there.

        Returns:
            The examples whose paths were changed.

        Raises:
            InvalidArgumentError: `root` is no folder.
        """
        self.data_manager.require_writable()
        if not Path(root).is_dir():
            raise InvalidArgumentError("root", os.fspath(root), "an existing folder")
        examples = {example.example_id: example for example in self.data_manager.iterate_examples()}
        moved = relinked(examples.values(), root, self.training_engine.limits.root_of(root))
        if moved:
            edits = {example_id: _moved_to(paths) for example_id, paths in moved.items()}
            self.data_manager.edit_examples(edits, skip_missing=True)
        return [attrs.evolve(examples[example_id], **paths) for example_id, paths in moved.items()]

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
        min_group: int = 8,
        run_workers: bool = False,
    ) -> LintReport:
        """Look for faults in the stored examples, or in candidates before they are added; nothing is changed.

        Args:
            rows: Candidates, as for `add_training_examples`; they are also compared with what is stored. None for the
                stored examples.
            group_by: A metadata key: groups of fewer than `min_group` examples are reported.
            min_group: At least 1.
            run_workers: Run the workers where the store has no previews of their pictures (it has none of candidates),
                to find truths that they made themselves. That takes the time of an evaluation. Of the stored examples,
                a few are evaluated anew as well, to find workers that do not repeat themselves.

        Returns:
            The findings, the worst kinds first; `tsm_training.lint` lists the kinds.

        Raises:
            InvalidArgumentError: `rows` cannot be gone through, or another argument is not what it must be. A faulty
                example or row is a finding.
            StorageError: the store cannot be read.
            WorkerNotIsolatableError: workers are to be run, and one cannot be in the way that the pool's runner wants.
            ExecutorError: workers are to be run, and nothing can be started.
            MetricError: workers are to be run, and the judge raised or gave something that is no similarity.
        """
        from tsm_training.lint import lint_store  # noqa: PLC0415 - few programs look for faults

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

        It takes all examples, or only the newest `num_examples`, and holds out a fraction `validation_split` of them,
        in [0, 1): examples with the same target stay together, and another `seed` holds out other ones. Each epoch
        absorbs a share alpha of what is left to learn. With `group_by`, `predict` answers by group; groups are those of
        the last training. For the other arguments see `TrainingEngine.train_batch`.

        Returns:
            The session and its validation; where nothing was held out, the validation's means are None.

        Raises:
            InvalidArgumentError: an argument is outside its range; nothing was started.
            NoExamplesError: there is nothing to train on.
            TsmTrainingError: as for `TrainingEngine.train_batch`.
        """
        num_examples, seed = check_limit("num_examples", num_examples), check_seed(seed)
        expected = "a number of at least 0 and below 1"
        check_number("validation_split", validation_split, 0.0, 1.0, expected, low_allowed=True)
        if validation_split == 1:
            raise InvalidArgumentError("validation_split", validation_split, expected)
        engine = self.training_engine

        def chosen() -> Split:
            examples = self.data_manager.get_all_examples(num_examples)
            # Examples whose files cannot even be looked at are given along: the session lists why it skipped them.
            known, unusable = engine.evaluator.with_files(examples)
            split = split_examples(known, validation_split, seed)
            others = (example for example in examples if example.example_id in unusable)
            return split._replace(training=(*split.training, *others))

        session = engine.train_chosen(
            chosen,
            TrainingOptions(
                epochs, verbose, float(validation_split), seed, reevaluate, on_progress, should_stop, group_by
            ),
        )
        validation = ShownDocument(session.validation or Validation().to_document())
        results = ShownDocument(session=session.to_summary(), validation=validation)
        return cast("TrainingResults", results)

    def validate(
        self,
        example_ids: Sequence[str] | None = None,
        *,
        full: bool = False,
        reevaluate: bool = False,
        verbose: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ValidationResults:
        """Judge the present weights on the examples with these `example_ids`, or on all; nothing is learned.

        For the other arguments, and whatever else is raised, see `TrainingEngine.validate`.

        Raises:
            ExampleNotFoundError: an id is not stored.
            NoExamplesError: there are no examples.
        """
        examples = self._examples(example_ids)
        return self.training_engine.validate(
            examples, full=full, reevaluate=reevaluate, verbose=verbose, on_progress=on_progress
        )

    def _examples(self, example_ids: Sequence[str] | None) -> list[TrainingExample]:
        if example_ids is None:
            return self.data_manager.get_all_examples()
        return self.data_manager.get_examples(check_ids("example_ids", example_ids))

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

        What was learned stays as it is; each fold trains a copy of the learner that starts from nothing. For the
        arguments, and what is raised, see `TrainingEngine.cross_validate`.
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
            TsmTrainingError: as for `validate`.
        """
        rope = self.training_engine.rope if rope is None else check_rope(rope)
        ids = [worker.worker_id for worker in own_workers(self.worker_pool) or ()]
        given: dict[str, object] = {"a": a, "b": b}
        for name, value in given.items():  # a slip is found before any worker runs
            if not isinstance(value, str) or (ids and value not in ids):
                known = f"the id of a worker ({', '.join(ids) or 'text'}){did_you_mean(value, ids)}"
                raise InvalidArgumentError(name, value, known)
        if a == b:
            raise InvalidArgumentError("b", b, "another worker than a")
        return compare(self.training_engine.score_table(self._examples(example_ids)), a, b, rope=rope)

    def probability_best(self, *, example_ids: Sequence[str] | None = None) -> BestWorker:
        """Tell for each worker how probable it is that it is the best one, from all that they did on the same examples.

        For `example_ids`, and what is raised, see `TrainingManager.validate`.
        """
        return probability_best(self.training_engine.score_table(self._examples(example_ids)))

    def leaderboard(self) -> Leaderboard:
        """Return every worker and every baseline on the examples that the newest training held out, the best first.

        It shows itself as a table in a terminal and in a notebook, and has `to_frame` for pandas. What is stored is
        read; no worker runs, so that a worker whose results are not stored (any more) has a weight only.

        Raises:
            StorageError: the store cannot be read.
        """
        return self.training_engine.leaderboard()

    def explain(self, *, tolerance: float | None = None, example_ids: Sequence[str] | None = None) -> Explanation:
        """Tell what each worker brings to the ensemble and what it costs, and how small an ensemble would do.

        A smaller ensemble may lose `tolerance` in accuracy: the engine's `rope` unless given. It is told from the
        examples with these `example_ids`, or from all. For what is raised, see `TrainingEngine.explain`.

        Raises:
            ExampleNotFoundError: an id is not stored.
        """
        tolerance = self.training_engine.rope if tolerance is None else tolerance
        return self.training_engine.explain(self._examples(example_ids), tolerance=tolerance)

    def looks(
        self, *, example_ids: Sequence[str] | None = None, on_progress: ProgressCallback | None = None
    ) -> FoundLooks:
        """Find the looks among the stored examples, or those with these `example_ids`, without labels.

        For `on_progress`, what it costs, and what else is raised, see `TrainingEngine.looks`.

        Raises:
            ExampleNotFoundError: an id is not stored.
        """
        return self.training_engine.looks(self._examples(example_ids), on_progress=on_progress)

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

        It holds the verdict, the similarity of the ensemble's pictures on unseen examples, the leaderboard, the
        learning curve, a contact sheet, the last trainings, what a check of the dataset finds, failures, settings and
        versions. It loads nothing and runs no script. Names of folders are left out; names of files, workers and what
        they said are in it.

        Workers run on the examples of the contact sheet only.

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
            TsmTrainingError: as for `predict`.
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
        source: PictureLike,
        target: PictureLike,
        *,
        run_all: bool = False,
        group: str | float | None = None,
        color: ChannelOrder = "bgr",
    ) -> Prediction:
        """Return the ensemble's answer to a new request, whose pictures are files, arrays, or images of Pillow.

        For the arguments, and what else is raised, see `TrainingEngine.predict`.

        Raises:
            ImageError: a file, or an image of Pillow, cannot be used.
        """
        return self.training_engine.predict(source, target, run_all=run_all, group=group, color=color)

    def predict_folder(
        self,
        source: PictureLike,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        group: str | float | None = None,
        overwrite: bool = False,
        verbose: bool = True,
        on_progress: ProgressCallback | None = None,
    ) -> FolderPrediction:
        """Write the ensemble's answer to every picture in a folder, under the same names in another folder.

        Pictures that have an answer in `out` are skipped, so that a call which was interrupted goes on where it ended.
        With another source, or after another training, `overwrite` makes all answers anew. Each file appears whole. An
        answer to a kind of picture that is read but not written (HEIC) ends with ``.jpg``. Several pictures are worked
        on at once.

        Args:
            source: Gives the colours to all of them, as for `predict`; or a folder that holds a source of each target's
                name.
            folder: Holds the targets; subfolders are not entered.
            out: Another folder, for the answers; made if it does not exist.
            group: As for `predict`, for all of them; one that no example has is told by a warning.
            overwrite: Make answers anew that are there already.
            verbose: Show progress on standard error.
            on_progress: Called with a `Progress`, in this thread.

        Returns:
            What was written, and what was skipped and why: unreadable pictures, other files, subfolders.

        Raises:
            InvalidArgumentError: a folder is missing, both are the same, or two pictures would have one answer; nothing
                was written.
            ImageError: `source` cannot be used.
            OSError: an answer cannot be written.
            TsmTrainingError: as for `predict`, but for single pictures that cannot be answered: they are skipped.
        """
        from tsm_training.grading import grade_folder  # noqa: PLC0415 - few programs grade folders

        sources, shared = None, None
        if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
            sources = Path(source)
        else:
            shared, _exif = picture_and_exif(source, "source", "bgr", self.training_engine.limits)

        unknown: list[Prediction] = []

        def predict_and_save(own: Path | None, target: Path, answer: Path) -> None:
            prediction = self.predict(cast("Any", own if shared is None else shared), target, group=group)
            prediction.save(answer)
            if prediction.is_known_group is False:
                unknown[:] = [prediction]

        with reporting(verbose=verbose, on_progress=on_progress) as reporter:
            done = grade_folder(predict_and_save, sources, folder, out, reporter, overwrite=overwrite)
        if unknown:
            warnings.warn(unknown_group_text(unknown[0]), stacklevel=2)
        return done

    def get_training_progress(self) -> TrainingProgress:
        """Return the guide's progress document: counts, and what is known about every worker."""
        self.training_engine.prepare_learner()
        weights = self.weight_learner.get_all_weights()
        statistics = self.weight_learner.get_all_statistics()
        progress = ShownDocument(
            dataset_stats=self.data_manager.get_dataset_stats(),
            worker_stats={
                worker_id: {"current_weight": weights[worker_id], "stats": statistics[worker_id]}
                for worker_id in weights
            },
            current_weights=weights,
        )
        return cast("TrainingProgress", progress)

    # --- weights ---

    def export_weights(self, path: str | os.PathLike[str]) -> None:
        """Write the learned weights to a file that `import_weights` brings back exactly.

        What workers have learned from the examples goes with them: samples of colours of the training pictures (about
        12 kB per example, no layout), and what was fitted to them.

        Raises:
            WeightsFileError: the file cannot be written; what was there before is untouched (unless it is only the
                folder that could not be synced: then the new file is in its place).
        """
        self.training_engine.prepare_learner()  # another process may have learned meanwhile
        learner = self.weight_learner
        document = WeightsDocument(
            format_version=WEIGHTS_FORMAT_VERSION,
            exported_at=datetime.now(UTC).isoformat(),
            alpha=learner.alpha,
            weights=learner.get_all_weights(),
        )
        document |= cast("WeightsDocument", learner.weights_entries(learner.state))
        if fits := self.training_engine.trainables.exported(learner.cell.snapshot.fits):
            document["fits"] = {worker_id: fit.to_document() for worker_id, fit in fits.items()}
        write_weights_file(check_path("path", path), document)

    def import_weights(self, path: str | os.PathLike[str]) -> WeightsImport:
        """Replace what was learned by a weights file, which is checked whole before anything changes.

        A file that holds weights only, perhaps as a bare object ``{"worker": 1.05}``, gives each worker that weight as
        its prior; where all of them lie below 1, they are multiplied by what makes their mean 1. Until there is
        evidence, the imported workers together hold at least half of the shares. Workers that have learned answer at
        once with the file's fits; the next training fits them on the file's observations and the own examples together,
        until `reset_weights` or another import.

        Raises:
            WeightsFileError: the file is faulty, was learned with another prior strength, or names no worker here.
            TrainingInProgressError: this learner is being trained by another call.

        Warns:
            UserWarning: the weights were multiplied; `WeightsImport.scale` says by what.
        """
        self.data_manager.require_writable()
        file = read_weights_file(check_path("path", path))
        learner = self.weight_learner
        state = learner.imported(file)
        self.training_engine.prepare_learner()
        workers = own_workers(self.worker_pool)
        trainables = self.training_engine.trainables
        # What earlier imports named besides is not here either.
        ids = sorted(w.worker_id for w in workers) if workers else sorted(learner.get_all_weights())
        known = frozenset(ids)
        if known and not known & file.weights.keys():
            raise WeightsFileError(file.path, f"names none of the workers here ({', '.join(sorted(known))})", "weights")
        if file.scale != 1.0:
            text = f"all weights in {file.path!r} lie below 1, the weight of an average worker; they are multiplied"
            warnings.warn(f"{text} by {file.scale:.6g}, so that their mean is 1", stacklevel=2)
        with self.weight_learner.cell:
            fits = trainables.imported(file.path, file.fits)
            known_ids = [worker_id for worker_id in ids if worker_id not in trainables.workers or worker_id in fits]
            after = Snapshot(_usable(learner, learner.with_workers(state, known_ids), file.path), fits)
            self.training_engine.learner_storage.change(lambda _before, _held: after, None)
        self.training_engine.share_fits()
        return WeightsImport(
            path=file.path,
            alpha=file.alpha,
            imported=tuple(sorted(file.weights.keys() & known)),
            dormant=tuple(sorted(file.weights.keys() - known)),
            missing=tuple(sorted(known - file.weights.keys())),
            scale=file.scale,
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
            self.training_engine.learner_storage.change(
                lambda before, _held: self.weight_learner.after_reset(before, default_weight), None
            )
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
            LearnerMismatchError: it is another kind of learner.
            TrainingInProgressError: this learner is being trained by another call.
        """
        self.data_manager.require_writable()
        own, other = self.weight_learner.name, _a_learner(weight_learner).name
        if other != own:
            raise LearnerMismatchError("the learner to adopt", other, own)
        adopted = weight_learner.cell.whole()

        def stored(_before: Snapshot, held: HeldState) -> Snapshot:
            learned = frozenset() if adopted.state is None else weight_learner.known(adopted.state)
            return without(weight_learner, adopted, learned - held.known(learned))  # removed since the fork was made

        with self.weight_learner.cell:
            self.training_engine.learner_storage.change(stored, None)
        self.training_engine.share_fits()
        return self.with_learner(weight_learner.with_cell(self.weight_learner.cell))

    # --- the end ---

    def close(self) -> None:
        """Close the store; closing twice is fine."""
        self.data_manager.close()

    def __enter__(self) -> TrainingManager:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
