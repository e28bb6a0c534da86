"""The command line: ``python -m tsm_training`` and ``tsm-training``. Each command is a call of `TrainingManager`.

Results go to standard output, progress and messages to standard error. The exit code is 0 when all was done, 2 for a
mistake of the user's, 1 for anything else (also where ``check`` or ``lint --strict`` find something), and 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import warnings
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from tsm_training._version import __version__
from tsm_training.ensemble import unknown_group_text
from tsm_training.errors import (
    BlendSolverError,
    ExecutorError,
    InvalidArgumentError,
    LearnerFaultError,
    MetricError,
    PredictionError,
    StorageBusyError,
    StorageCorruptError,
    StorageFullError,
    TrainingInProgressError,
    TsmTrainingError,
    WorkerPoolError,
)
from tsm_training.ingest import USUAL_PATTERN
from tsm_training.manager import TrainingManager
from tsm_training.storage import TrainingDataManager
from tsm_training.text import counted
from tsm_training.weights import BayesianWeightLearner
from tsm_training.workers import WorkerPool

_NOT_THE_USERS_FAULT: Final = (
    BlendSolverError,
    ExecutorError,
    LearnerFaultError,
    MetricError,
    PredictionError,
    StorageBusyError,
    StorageCorruptError,
    StorageFullError,
    TrainingInProgressError,
    WorkerPoolError,
)


class _Result(NamedTuple):
    """What a command gave: for people, for machines, and the exit code."""

    text: object
    document: object
    code: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of the process's command line, and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    warnings.showwarning = lambda message, *_where: print(f"{parser.prog}: warning: {message}", file=sys.stderr)
    try:
        with _manager(options) as manager:
            result: _Result = options.run(manager, options)
            print(json.dumps(result.document, indent=2) if options.json else result.text)
            sys.stdout.flush()  # whoever reads it may have gone
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; what was evaluated is kept", file=sys.stderr)
        return 130
    except (TsmTrainingError, OSError) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(f"{parser.prog}: error: {error}{notes}", file=sys.stderr)
        return 1 if isinstance(error, _NOT_THE_USERS_FAULT) else 2
    return result.code


def _manager(options: argparse.Namespace) -> TrainingManager:
    path = Path(options.database)
    if not options.makes_database and not path.exists():
        raise InvalidArgumentError("database", str(path), "an existing file; train or add makes one")
    settings = {"alpha": options.alpha} if getattr(options, "alpha", None) is not None else {}
    learner = BayesianWeightLearner(**settings)
    if options.workers is None:
        return TrainingManager(weight_learner=learner, db_path=path)
    pool = WorkerPool()
    try:
        workers = list(_made(options.workers)())
    except TypeError as error:  # it wants arguments, or gives nothing that can be gone through
        expected = f"a function without arguments that returns workers ({error})"
        raise InvalidArgumentError("workers", options.workers, expected) from error
    for worker in workers:
        pool.register_worker(worker)
    return TrainingManager(pool, learner, path)


def _made(place: str) -> Callable[[], Any]:
    """Return the function that ``module:function`` names; the module may lie in the current folder."""
    module, _, name = place.partition(":")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as the interpreter puts it there
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidArgumentError("workers", place, f"module:function, which can be imported ({error})") from error
    if not callable(found):
        raise InvalidArgumentError("workers", place, "a function that returns workers")
    result: Callable[[], Any] = found
    return result


# --- commands -------------------------------------------------------------------------------------------------------


def _add(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    before = manager.list_examples(1)["total"]
    for place in options.pictures:
        if not Path(place).exists():
            raise InvalidArgumentError("pictures", place, "an existing folder or CSV file")
        if Path(place).is_dir():
            manager.add_folder(place, pattern=options.pattern, on_error=options.on_error)
        else:
            manager.add_manifest(place, on_error=options.on_error)
    total = manager.list_examples(1)["total"]
    added = total - before
    return _Result(f"{counted(added, 'example')} added, {total} in all", {"added": added, "total": total})


def _train(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    if options.pictures:
        print(_add(manager, options).text, file=sys.stderr)
    results = manager.train(
        epochs=options.epochs,
        validation_split=options.validation_split,
        verbose=not options.quiet,
        group_by=options.group_by,
    )
    return _Result(results, results)


def _validate(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    results = manager.validate(full=options.full, reevaluate=options.reevaluate, verbose=not options.quiet)
    return _Result(results, results)


def _predict(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    if Path(options.target).is_dir():
        done = manager.predict_folder(
            options.source,
            options.target,
            options.out,
            group=options.group,
            overwrite=options.overwrite,
            verbose=not options.quiet,
        )
        skipped = [{"path": str(each.path), "reason": each.reason} for each in done.skipped]
        return _Result(done, {"written": [str(path) for path in done.written], "skipped": skipped})
    prediction = manager.predict(options.source, options.target, group=options.group)
    prediction.save(options.out)
    if prediction.is_known_group is False:
        warnings.warn(unknown_group_text(prediction), stacklevel=1)
    return _Result(options.out, {"written": [options.out], "skipped": []})


def _leaderboard(manager: TrainingManager, _options: argparse.Namespace) -> _Result:
    board = manager.leaderboard()
    return _Result(board, board.to_dict())


def _lint(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    report = manager.lint()
    return _Result(report, attrs.asdict(report), 1 if report and options.strict else 0)


def _report(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    page = manager.report(options.page, title=options.title)
    if options.open:
        webbrowser.open(page.absolute().as_uri())
    return _Result(page, {"path": str(page)})


def _export(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    manager.export_weights(options.weights)
    return _Result(options.weights, {"path": options.weights})


def _import(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    found = manager.import_weights(options.weights)
    text = f"{counted(len(found.imported), 'worker')} imported from {found.path}"
    for words, ids in (("not here", found.dormant), ("not in the file", found.missing)):
        text += f"; {words}: {', '.join(ids)}" if ids else ""
    return _Result(text, attrs.asdict(found))


def _check(manager: TrainingManager, _options: argparse.Namespace) -> _Result:
    faults = _file_of(manager).check()
    document = [attrs.asdict(fault) for fault in faults]
    return _Result("\n".join(map(str, faults)) or "nothing is wrong", document, 1 if faults else 0)


def _backup(manager: TrainingManager, options: argparse.Namespace) -> _Result:
    _file_of(manager).backup(options.copy, overwrite=options.overwrite)
    return _Result(options.copy, {"path": options.copy})


def _file_of(manager: TrainingManager) -> TrainingDataManager:
    assert isinstance(manager.data_manager, TrainingDataManager)  # noqa: S101 - `_manager` made it
    return manager.data_manager


# --- arguments ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tsm-training",
        description="Learn from pictures before and after how to change others, and which methods can be trusted.",
        epilog="tsm-training COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[TrainingManager, argparse.Namespace], _Result], words: str, *, makes: bool = False
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
        made.set_defaults(run=run, makes_database=makes)
        made.add_argument("database", metavar="DB", help="the SQLite file that keeps everything")
        made.add_argument("--json", action="store_true", help="print the result as JSON")
        made.add_argument("--quiet", action="store_true", help="show no progress")
        made.add_argument("--workers", metavar="MODULE:FUNCTION", help="own workers (default: the built-in ones)")
        return made

    pictures = "a folder with sources, targets and truths of equal names, or a CSV file"
    add = command("add", _add, "add examples", makes=True)
    train = command("train", _train, "add examples, if any are given, and train on all", makes=True)
    for adding, count in ((add, "+"), (train, "*")):
        adding.add_argument("pictures", metavar="PICTURES", nargs=count, help=pictures)
        adding.add_argument(
            "--pattern", default=USUAL_PATTERN, help="where a folder's pictures lie (default: %(default)s)"
        )
        adding.add_argument(
            "--on-error",
            choices=("raise", "skip"),
            default="raise",
            help="where some cannot be added: add the rest, or none",
        )
    train.add_argument("--epochs", type=int, default=1, help="passes over the examples (default: %(default)s)")
    train.add_argument("--alpha", type=float, help="how much of the evidence a pass absorbs, above 0 and at most 1")
    train.add_argument(
        "--validation-split", type=float, default=0.2, metavar="PART", help="the part held out (default: %(default)s)"
    )
    train.add_argument("--group-by", metavar="KEY", help="learn by group: the metadata key that names it")
    validate = command("validate", _validate, "judge what was learned on all examples; nothing is learned")
    validate.add_argument("--full", action="store_true", help="judge whole pictures instead of small ones")
    validate.add_argument("--reevaluate", action="store_true", help="run all workers again, and name unsteady ones")
    predict = command("predict", _predict, "answer one target picture, or every one in a folder")
    predict.add_argument("source", metavar="SOURCE", help="gives the colours: a picture, or a folder of equal names")
    predict.add_argument("target", metavar="TARGET", help="the picture to change, or a folder of them")
    predict.add_argument("out", metavar="OUT", help="the file to write, or the folder for the answers")
    predict.add_argument("--group", help="the look's name, after training with --group-by")
    predict.add_argument(
        "--overwrite", action="store_true", help="in a folder, make answers anew that are there already"
    )
    command("leaderboard", _leaderboard, "show how all workers and the ensemble do on held-out examples")
    lint = command("lint", _lint, "look for faults in the examples")
    lint.add_argument("--strict", action="store_true", help="exit with 1 where something is found")
    report = command("report", _report, "write everything about the newest training into one HTML file")
    report.add_argument("page", metavar="PAGE", help="the file to write")
    report.add_argument("--title", default="Training report", help="heading of the page")
    report.add_argument("--open", action="store_true", help="show it in the browser")
    for name, run, words in (
        ("export", _export, "write the learned weights to a file"),
        ("import", _import, "replace what was learned by a weights file"),
    ):
        command(name, run, words, makes=name == "import").add_argument("weights", metavar="FILE", help="a JSON file")
    command("check", _check, "look for damage in the database; exits with 1 where there is any")
    backup = command("backup", _backup, "write a copy of the database while others use it")
    backup.add_argument("copy", metavar="COPY", help="the file to write")
    backup.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    return parser


if __name__ == "__main__":
    sys.exit(main())
