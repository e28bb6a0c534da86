from __future__ import annotations

import copy
import errno
import inspect
import pickle
import re
from typing import Any, ClassVar

import numpy as np
import pytest

from tsm_training import errors
from tsm_training.arrays import check_image, frozen_copy, image_fault
from tsm_training.errors import InvalidArgumentError, TsmTrainingError

REASONS = {f"example {number}": f"reason {number}" for number in range(7)}
SIZES = ("output", (60, 40), "ground truth", (60, 41))

# For every error: what it is made from, and what it then says.
CASES: dict[str, tuple[tuple[object, ...], str]] = {
    "BlendSolverError": (("greedy", "gave nobody a share"), "the blend solver 'greedy' gave nobody a share"),
    "DatabaseNotOursError": (
        ("x.db", "holds the tables of another application"),
        "couldn't use the store 'x.db': holds",
    ),
    "DuplicateExampleError": (("e1",), "a training example with the id 'e1' is already stored"),
    "DuplicateWorkerError": (("w",), "a worker with the id 'w' is already registered: unregister it first"),
    "ExampleNotFoundError": (("e1",), "no training example has the id 'e1'"),
    "ExecutorError": (("ThreadPoolExecutor", "is shut down"), "the executor ThreadPoolExecutor is shut down"),
    "ImageChangedError": (("a.png", "has other contents now"), "'a.png': has other contents now"),
    "ImageError": (("a.png", "is odd"), "'a.png': is odd"),
    "ImageFormatError": (("a.png", "has 16 bits"), "'a.png': has 16 bits"),
    "ImageNotFoundError": (("a.png", "does not exist"), "'a.png': does not exist"),
    "ImageOutsideRootError": (("a.png", "lies elsewhere"), "'a.png': lies elsewhere"),
    "ImageSizeMismatchError": (SIZES, "output and ground truth must have the same size, got 40×60 and 41×60 (width×"),
    "ImageTooLargeError": (("a.png", "has 10 pixels"), "'a.png': has 10 pixels"),
    "ImageTruncatedError": (("a.png", "ends early"), "'a.png': ends early"),
    "ImageUnreadableError": (("a.png", "is a pipe"), "'a.png': is a pipe"),
    "ImageUnwritableError": (("a.png", "no room"), "'a.png': no room"),
    "InvalidArgumentError": (("epochs", 0, "at least 1"), "epochs must be at least 1, got 0"),
    "InvalidMetadataError": (
        ("metadata['x']", {1}, "something JSON holds"),
        "metadata['x'] must be something JSON holds, got",
    ),
    "LearnerConflictError": (
        ("x.db", None),
        "the learner has evidence of its own, and x.db holds other learned state: pass",
    ),
    "LearnerFaultError": (("mine-1", "it gave no state"), "the learner 'mine-1': it gave no state"),
    "LearnerMismatchError": (
        ("x.db", "theirs-1", "bayesian-1"),
        "x.db holds what a learner 'theirs-1' has learned, and this one is 'bayesian-1': use",
    ),
    "ManifestError": (("rows.csv", "line 3 has 2 fields"), "'rows.csv': line 3 has 2 fields"),
    "MetricError": (
        ("Mine", "w", "returned nan"),
        "Mine, given the output of worker 'w', returned nan; a similarity must be",
    ),
    "MetricRangeError": (("Mine", 1.5), "Mine returned 1.5; a similarity must be a finite number between 0 and 1"),
    "MissingExtraError": (
        ("isolation", "IsolatedRunner"),
        'IsolatedRunner needs libraries that are not installed: pip install "tsm_training[isolation]"',
    ),
    "NoExamplesError": ((), "there are no training examples: add some with add_training_example()"),
    "NoWorkersError": ((), "the worker pool is empty: register at least one worker with register_worker()"),
    "NothingEvaluatedError": ((REASONS,), "no example could be evaluated: example 0: reason 0; example 1: reason 1"),
    "PredictionError": (
        ({"w": "raised", "v": "too small"},),
        "no worker gave a usable picture: w: raised; v: too small",
    ),
    "SchemaTooNewError": (("x.db", "has schema 9"), "couldn't use the store 'x.db': has schema 9"),
    "SessionNotFoundError": (("s1",), "no training session has the id 's1'"),
    "StorageBusyError": (("x.db", "is locked"), "couldn't use the store 'x.db': is locked"),
    "StorageClosedError": (("x.db", "was closed"), "couldn't use the store 'x.db': was closed"),
    "StorageExistsError": (("x.db", "is there"), "couldn't use the store 'x.db': is there"),
    "StorageFullError": (("x.db", "no room"), "couldn't use the store 'x.db': no room"),
    "StorageMovedError": (("x.db", "was deleted"), "couldn't use the store 'x.db': was deleted"),
    "StorageReadOnlyError": (("x.db", "is read-only"), "couldn't use the store 'x.db': is read-only"),
    "StorageUnreachableError": (("x.db", "no answer"), "couldn't use the store 'x.db': no answer"),
    "WorkerNotIsolatableError": (
        ("w", "Mine", "no pickle"),
        "worker 'w' (Mine) cannot be sent to a process of its own: no pickle; make it",
    ),
    "StorageCorruptError": (("x.db", "page 3"), "couldn't use the store 'x.db': page 3"),
    "StorageError": (("x.db", "is read-only"), "couldn't use the store 'x.db': is read-only"),
    "TrainingInProgressError": ((), "this learner is already being trained by another call: wait for it"),
    "TrainingStoppedError": (("s1",), "training session s1 was stopped on request; its evaluations are kept"),
    "TsmTrainingError": (("anything",), "anything"),
    "WeightsFileError": (
        ("w.json", "must be above 0", "weights['a']"),
        "weights file 'w.json' at weights['a']: must be above 0",
    ),
    "WorkerNotFittedError": (("w",), "worker 'w' is not fitted yet: it answers after train()"),
    "WorkerNotFoundError": (("w",), "no registered worker has the id 'w'"),
    "WorkerPoolError": (
        ("Pool", "returned no results"),
        "the worker pool Pool returned no results; execute_parallel(data) must return one result per worker",
    ),
}


def made(name: str) -> TsmTrainingError:
    error: TsmTrainingError = getattr(errors, name)(*CASES[name][0])
    return error


def test_every_error_is_exported_and_has_a_case_here() -> None:
    public = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and not name.startswith("_")
    }
    assert public == set(errors.__all__) == set(CASES)
    assert errors.__all__ == sorted(errors.__all__)


@pytest.mark.parametrize("name", CASES)
def test_every_error_says_what_was_seen_and_keeps_what_it_was_made_from(name: str) -> None:
    error = made(name)
    assert isinstance(error, TsmTrainingError)
    assert str(error).startswith(CASES[name][1])
    names = inspect.signature(type(error)).parameters
    assert tuple(getattr(error, attribute) for attribute in names) == (error.args if names else ())
    assert error.args[: len(CASES[name][0])] == CASES[name][0]


@pytest.mark.parametrize("name", CASES)
def test_every_error_survives_pickling_and_copying_with_all_it_knows(name: str) -> None:
    error = made(name)
    others = [copy.copy(error), copy.deepcopy(error)]
    others += [pickle.loads(pickle.dumps(error, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
    for other in others:
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        assert vars(other) == vars(error)


TELLTALES = ("/srv/geheim/kunde.png", "C:\\geheim\\kunde.db", "hunter2", "Traceback: No such file", "<script>", "4711")


def told(value: object, word: str) -> object:
    """Replace every text and number within what an error is made from by something that must not come out."""
    if isinstance(value, dict):
        return {word: word}
    if isinstance(value, tuple):
        return (4711, 4711)
    return word


@pytest.mark.parametrize("name", CASES)
def test_what_clients_may_see_of_an_error_tells_nothing_that_was_seen(name: str) -> None:
    for word in TELLTALES:
        error: TsmTrainingError = getattr(errors, name)(*(told(value, word) for value in CASES[name][0]))
        error.add_note(word)
        error.__cause__ = OSError(2, word, word)
        assert not CASES[name][0] or any(seen in str(error) for seen in (word, repr(word), "4711"))
        for shown in (error.public_message, pickle.loads(pickle.dumps(error)).public_message):
            assert not any(part in shown for part in ("geheim", "kunde", "hunter2", "Traceback", "script", "4711"))
            assert not any(character in shown for character in "/\\<>{}'\"\n0123456789")


def test_what_clients_may_see_of_an_error_is_one_plain_sentence_of_its_own() -> None:
    messages = [made(name).public_message for name in CASES]
    assert len(set(messages)) == len(messages)
    for message in messages:
        assert message[0].isupper()
        assert message.endswith(".")
        assert message.count(".") == 1
        assert 4 <= len(message.split()) <= 25
        assert message.isprintable()


# What each is beside `TsmTrainingError`; of those below None, no built-in exception says more.
BUILT_IN: dict[type[Exception] | None, str] = {
    None: "ImageError TrainingStoppedError TsmTrainingError",
    ValueError: """
        DuplicateExampleError DuplicateWorkerError ImageChangedError ImageFormatError ImageSizeMismatchError
        ImageTooLargeError ImageTruncatedError InvalidArgumentError InvalidMetadataError ManifestError
        MetricRangeError WeightsFileError WorkerNotFittedError
    """,
    OSError: """
        DatabaseNotOursError ImageUnreadableError ImageUnwritableError SchemaTooNewError StorageClosedError
        StorageCorruptError StorageError StorageFullError StorageMovedError
    """,
    FileNotFoundError: "ImageNotFoundError",
    FileExistsError: "StorageExistsError",
    PermissionError: "ImageOutsideRootError StorageReadOnlyError",
    ConnectionError: "StorageUnreachableError",
    TimeoutError: "StorageBusyError",
    LookupError: "ExampleNotFoundError SessionNotFoundError WorkerNotFoundError",
    RuntimeError: """
        BlendSolverError ExecutorError LearnerConflictError LearnerFaultError LearnerMismatchError MetricError
        NoExamplesError
        NoWorkersError NothingEvaluatedError PredictionError TrainingInProgressError WorkerPoolError
    """,
    TypeError: "WorkerNotIsolatableError",
    ImportError: "MissingExtraError",
}
COMMON = (ValueError, TypeError, LookupError, RuntimeError, ImportError, OSError)


def test_every_error_is_also_the_built_in_one_that_fits() -> None:
    expected = {name: builtin for builtin, names in BUILT_IN.items() for name in names.split()}
    assert expected.keys() == CASES.keys()
    for name, builtin in expected.items():
        kinds = [kind for kind in COMMON if isinstance(made(name), kind)]
        assert builtin is None or isinstance(made(name), builtin), name
        # A file that cannot be read, or is full of something else, is one error: of both kinds, as in `io`.
        both = name in ("ManifestError", "WeightsFileError")
        assert len(kinds) == (0 if builtin is None else 2 if both else 1), name


@pytest.mark.parametrize(
    ("name", "number"),
    [("ImageNotFoundError", errno.ENOENT), ("StorageFullError", errno.ENOSPC), ("ImageUnreadableError", None)],
)
def test_what_the_system_refuses_has_the_number_that_the_system_gives_it(name: str, number: int | None) -> None:
    error: Any = made(name)
    assert error.errno == pickle.loads(pickle.dumps(error)).errno == number
    refused = errors.ImageUnreadableError("a.png", "is a directory", errno.EISDIR)
    assert pickle.loads(pickle.dumps(refused)).errno == copy.copy(refused).errno == errno.EISDIR


@pytest.mark.parametrize("name", CASES)
def test_an_error_is_made_from_what_it_declares_by_position_or_by_name(name: str) -> None:
    kind, values = getattr(errors, name), CASES[name][0]
    parameters = inspect.signature(kind).parameters
    if not parameters:
        assert kind("anything").args == ("anything",)
        return
    assert str(kind(**dict(zip(parameters, values, strict=False)))) == str(kind(*values))
    for wrong in ((), (*values, 1, 2, 3)):
        with pytest.raises(TypeError):
            kind(*wrong)


def test_an_error_can_be_given_notes_and_more_attributes() -> None:
    error = made("ImageFormatError")
    error.add_note("found in a folder of 20")
    other = pickle.loads(pickle.dumps(error))
    assert other.__notes__ == ["found in a folder of 20"]
    assert str(other) == str(error) == "'a.png': has 16 bits"


class _Mine(errors.ImageFormatError):
    """One of an application's own, which tells more."""

    code: int
    shown: ClassVar[bool] = False


def test_an_application_can_declare_more() -> None:
    error = pickle.loads(pickle.dumps(_Mine("a.png", "is odd", 7)))
    assert (error.path, error.reason, error.code, error.shown) == ("a.png", "is odd", 7, False)
    assert str(error) == "'a.png': is odd"
    assert error.public_message == made("ImageFormatError").public_message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.WeightsFileError("w.json", "is not JSON"), "weights file 'w.json': is not JSON"),
        (errors.LearnerConflictError("x.db", "y.db"), "the learner is kept in y.db, not in x.db: pass restore=False"),
    ],
)
def test_a_message_names_what_is_known(error: TsmTrainingError, said: str) -> None:
    assert str(error).startswith(said)


@pytest.mark.parametrize(("count", "end"), [(1, "reason 0"), (5, "reason 4"), (6, "; and 1 more"), (7, "; and 2 more")])
def test_of_many_reasons_five_are_shown_and_all_are_kept(count: int, end: str) -> None:
    reasons = dict(list(REASONS.items())[:count])
    error = errors.NothingEvaluatedError(reasons)
    assert str(error).endswith(end)
    assert error.reasons == reasons


class _Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x" * 1000, "'" + "x" * 199 + "… (str)"),
        ("x" * 198, "'" + "x" * 198 + "'"),
        (_Odd(), "a _Odd that cannot be shown (RuntimeError)"),
        pytest.param(10**5000, "a int that cannot be shown (ValueError)", id="5,001 digits"),
    ],
)
def test_whatever_was_seen_the_message_stays_short_and_can_be_read(value: object, shown: str) -> None:
    assert str(InvalidArgumentError("x", value, "fine")) == f"x must be fine, got {shown}"


# --- the picture contract -------------------------------------------------------------------------------------------

GOOD = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "a NoneType"),
        ([[[0, 0, 0]]], "a list"),
        (GOOD.astype(np.float32), "an array of dtype float32"),
        (GOOD.astype(np.int8), "an array of dtype int8"),
        (GOOD[:, :, 0], "an array of shape (2, 3)"),
        (GOOD[:, :, :1], "an array of shape (2, 3, 1)"),
        (np.zeros((2, 3, 4), np.uint8), "an array of shape (2, 3, 4)"),
        (GOOD[None], "an array of shape (1, 2, 3, 3)"),
        (GOOD[:0], "an array of shape (0, 3, 3)"),
        (GOOD[:, :0], "an array of shape (2, 0, 3)"),
    ],
)
def test_what_is_no_picture_is_refused_with_a_short_description(value: object, fault: str) -> None:
    assert image_fault(value) == fault
    with pytest.raises(InvalidArgumentError) as caught:
        check_image(value, "output")
    assert re.fullmatch(
        r"output must be a uint8 array of shape \(H, W, 3\), BGR(; .* (makes one|channel))?, got "
        + re.escape(f"{fault!r}"),
        str(caught.value),
    )


def test_a_picture_is_passed_on_as_it_is() -> None:
    view = np.zeros((4, 6, 3), np.uint8)[::2, ::-1]
    assert image_fault(view) is None
    assert check_image(view, "output") is view


def test_a_frozen_copy_can_never_be_written_to_again() -> None:
    picture = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)[:, ::-1]
    frozen = frozen_copy(picture)
    assert np.array_equal(frozen, picture)
    assert not np.shares_memory(frozen, picture)
    array: object = frozen
    while isinstance(array, np.ndarray):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
        array = array.base
