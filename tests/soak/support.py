"""What the soak programs share: children that can be killed, an application with a plan, and what a database holds."""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs
from tests.soak.counting import counted_pool, name_of_pictures
from tests.support import brighter, picture, save, save_triple

from tsm_training import BayesianWeightLearner, TrainingDataManager, TrainingManager

Tell: TypeAlias = Callable[[str], None]
"""Sends a line to the parent; when it returns, the parent can read it whatever becomes of the child."""

DATABASE: Final = "training.db"
WEIGHTS: Final = "weights.json"

_MAX_SHOWN: Final = 10


# --- a program and its verdict --------------------------------------------------------------------------------------


def parse(description: str | None, **numbers: tuple[int | float, int | float, str]) -> argparse.Namespace:
    """Return the program's options; each of `numbers` has a full and a quick default, and a line of help."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of minutes")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn by lot (1)")
    for name, (full, quick, text) in numbers.items():
        parser.add_argument(f"--{name}", type=type(full), help=f"{text} ({full}, quick {quick})")
    options = parser.parse_args()
    for name, (full, quick, _text) in numbers.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    # What the programs provoke is warned of, many times; what goes wrong beyond that still shows.
    logging.getLogger("tsm_training").setLevel(logging.ERROR)
    return options


@attrs.define
class Verdict:
    """Counts what was checked, and remembers every invariant that did not hold."""

    name: str
    seed: int
    checks: int = 0
    broken: list[str] = attrs.field(factory=list)
    started: float = attrs.field(factory=time.monotonic)

    def expect(self, holds: object, otherwise: str) -> bool:
        """Note a check; `otherwise` says what is wrong if it does not hold."""
        self.checks += 1
        if not holds:
            self.broken.append(otherwise)
            print(f"BROKEN: {otherwise}", file=sys.stderr, flush=True)
        return bool(holds)

    def expect_same(self, found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
        """Compare two contents, part by part and to the last bit."""
        for part in sorted(found.keys() | wanted.keys()):
            one, other = found.get(part), wanted.get(part)
            self.expect(one == other, f"{where}: {part} differ: {_first_difference(one, other)}")

    def close(self, *figures: str) -> int:
        """Print the figures; return the exit code."""
        for figure in figures:
            print(figure)
        system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
        print(f"seed {self.seed}, {time.monotonic() - self.started:.1f} s, {system}, {versions}")
        for line in self.broken[:_MAX_SHOWN]:
            print(f"BROKEN: {line}")
        print(f"{self.name}: {self.checks} checks, {len(self.broken)} broken")
        return 1 if self.broken else 0


def _first_difference(found: Any, wanted: Any) -> str:
    if found == wanted:
        return "they do not"
    if isinstance(found, list) and isinstance(wanted, list):
        for number, (one, other) in enumerate(zip(found, wanted, strict=False)):
            if one != other:
                return f"entry {number}: {one!r} instead of {other!r}"
        return f"{len(found)} entries instead of {len(wanted)}"
    return f"{found!r} instead of {wanted!r}"


@contextlib.contextmanager
def scratch(verdict: Verdict) -> Iterator[Path]:
    """Give a folder of the program's own; it is kept, and named, if something was found broken."""
    folder = Path(tempfile.mkdtemp(prefix=f"soak-{verdict.name}-"))
    try:
        yield folder
    except BaseException:
        print(f"kept for a look: {folder}", file=sys.stderr)
        raise
    if verdict.broken:
        print(f"kept for a look: {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder)


# --- children -------------------------------------------------------------------------------------------------------


@attrs.define
class Child:
    """A forked process, and the end of the pipe on which it tells what it has done."""

    pid: int
    reader: int
    status: int | None = None
    _rest: bytes = b""

    def kill(self, with_signal: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, with_signal)

    def line(self) -> str | None:
        """Wait for the next line; None where the child has ended without one."""
        while b"\n" not in self._rest:
            part = os.read(self.reader, 65536)
            if not part:
                return None
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\n")
        return text.decode()

    def wait(self) -> list[str]:
        """Wait for the end, and return the lines that were not read yet."""
        lines = []
        while (text := self.line()) is not None:
            lines.append(text)
        os.close(self.reader)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return lines

    @property
    def was_killed(self) -> bool:
        return self.status == -signal.SIGKILL


def fork(work: Callable[[Tell], None]) -> Child:
    """Start a child that does `work` and ends; an exception ends it with code 1 and a trace on standard error.

    Forking saves the second that importing takes. The parent has no threads, and no database open, when it forks.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of NumPy's, which are not used here
        pid = os.fork()
    if pid:
        os.close(writer)
        return Child(pid, reader)
    code = 1
    try:
        os.close(reader)
        work(lambda text: _write_all(writer, f"{text}\n".encode()))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def in_child(work: Callable[[Tell], None]) -> list[str]:
    """Do `work` in a child and return what it told; an exception there is one here."""
    child = fork(work)
    lines = child.wait()
    if child.status != 0:
        raise RuntimeError(f"a child that nobody disturbed ended with {child.status}")
    return lines


def hold_lock(database: Path, seconds: float, tell: Tell) -> None:
    """Lock a database against everybody else, as another application might; tell when it is locked and when not."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60.0)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        tell(f"locked {time.monotonic()}")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
        tell(f"free {time.monotonic()}")


# --- watching every call --------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Call:
    """A statement or a call of the file system that is about to be made, or has just been made."""

    kind: Literal["sql", "file"]
    text: str
    moment: Literal["before", "traced", "after"]
    """``traced`` is before too, but told by SQLite itself: each row of executemany() has its own."""
    connection: sqlite3.Connection | None = None


Notice: TypeAlias = Callable[[Call], None]

_FILE_CALLS: Final = ("open", "fdopen", "fsync", "replace", "rename", "link", "unlink", "remove", "chmod", "scandir")


@contextlib.contextmanager
def watching(notice: Notice, folder: Path, *, traces: bool = False) -> Iterator[None]:
    """Call `notice` around every SQL statement, and around every file call below `folder` or on a descriptor."""
    connect = sqlite3.connect
    watched = _watched_connections(notice, traces=traces)
    originals = {name: getattr(os, name) for name in _FILE_CALLS}

    def watched_connect(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **{"factory": watched, **settings})
        return connection

    sqlite3.connect = watched_connect  # type: ignore[assignment]
    for name, original in originals.items():
        setattr(os, name, _watched_call(name, original, notice, folder))
    try:
        yield
    finally:
        sqlite3.connect = connect
        for name, original in originals.items():
            setattr(os, name, original)


def _watched_connections(notice: Notice, *, traces: bool) -> type[sqlite3.Connection]:
    class Watched(sqlite3.Connection):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            if traces:
                self.set_trace_callback(lambda sql: notice(Call("sql", sql, "traced", self)))

        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return self._around(sql, super().execute, *arguments)

        def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return self._around(sql, super().executemany, *arguments)

        def _around(self, sql: str, function: Callable[..., sqlite3.Cursor], *arguments: Any) -> sqlite3.Cursor:
            notice(Call("sql", sql, "before", self))
            result = function(sql, *arguments)
            try:
                notice(Call("sql", sql, "after", self))
            except BaseException:
                result.close()  # this frame, which the traceback keeps, must not keep a lock on the file
                raise
            return result

    return Watched


def _watched_call(name: str, original: Callable[..., Any], notice: Notice, folder: Path) -> Callable[..., Any]:
    def call(*arguments: Any, **settings: Any) -> Any:
        if not _concerns(arguments[0] if arguments else None, folder):
            return original(*arguments, **settings)
        text = f"{name}({arguments[0]!r})"
        notice(Call("file", text, "before"))
        result = original(*arguments, **settings)
        notice(Call("file", text, "after"))
        return result

    return call


def _concerns(place: object, folder: Path) -> bool:
    if isinstance(place, int):
        return True
    return isinstance(place, (str, os.PathLike)) and str(os.fspath(place)).startswith(f"{folder}{os.sep}")


# --- pictures and workers -------------------------------------------------------------------------------------------


def make_pictures(folder: Path, examples: int) -> None:
    """Write triples, a second ground truth for each, and the names by which a worker's log tells pictures apart."""

    def work(_tell: Tell) -> None:
        names = {}
        for number in range(examples):
            save_triple(folder, number)
            source, target = picture(2 * number), picture(2 * number + 1)
            save(folder / f"other_truth_{number}.png", brighter(target, 35))
            names[name_of_pictures(source, target)] = number
        (folder / "names.json").write_text(json.dumps(names), encoding="utf-8")

    in_child(work)  # OpenCV's threads must not start in a process that forks


def triple(folder: Path, number: int) -> tuple[Path, Path, Path]:
    source, target, truth = (folder / f"{role}_{number}.png" for role in ("source", "target", "ground_truth"))
    return source, target, truth


# --- an application with a plan -------------------------------------------------------------------------------------

Step: TypeAlias = tuple[Any, ...]
"""What to do, and with which examples or numbers."""

PLAN: Final[tuple[Step, ...]] = (
    ("add", 0, 1, 2, 3),
    ("train", 2),
    ("validate",),
    ("export",),
    ("add", 4),
    ("learn", 4),
    ("reopen",),
    ("train", 1),
    ("export",),
    ("replace", 1),
    ("remove", 2),
    ("train", 3),
    ("import",),
    ("add", 5, 6),
    ("train", 2),
    ("reset",),
    ("train", 1),
    ("validate",),
    ("export",),
)
"""A host's day with everything in it."""

SMALL_PLAN: Final[tuple[Step, ...]] = (
    ("add", 0, 1, 2),
    ("train", 2),
    ("validate",),
    ("export",),
    ("import",),
    ("reset",),
)

Mark: TypeAlias = tuple[tuple[tuple[str, str], ...], str]
"""How far a plan has come, as the store tells it: names and ground truths of the examples, and learning's version."""


@attrs.define
class Host:
    """An application that works through a plan, in a folder of its own."""

    folder: Path
    pictures: Path
    nap: float = 0.0
    busy_timeout: float = 30.0
    split: float = 0.25
    manager: TrainingManager = attrs.field(init=False)

    @property
    def database(self) -> Path:
        return self.folder / DATABASE

    def open(self) -> None:
        store = TrainingDataManager(self.database, busy_timeout=self.busy_timeout)
        try:
            learner = BayesianWeightLearner(alpha=0.15)
            self.manager = TrainingManager(counted_pool(log_of(self.folder), self.nap), learner, storage=store)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        self.manager.close()

    def mark(self) -> Mark:
        return mark_of(self.manager.data_manager)

    def perform(self, step: Step) -> None:
        """Do one step; when this returns, it is done for good."""
        kind, *numbers = step
        getattr(self, f"_{kind}")(*numbers)

    def _add(self, *numbers: int) -> None:
        if len(numbers) == 1:
            self.manager.add_training_example(*triple(self.pictures, numbers[0]), {"name": f"e{numbers[0]}"})
        else:
            rows = [(*triple(self.pictures, number), {"name": f"e{number}"}) for number in numbers]
            self.manager.add_training_examples(rows)

    def _train(self, epochs: int) -> None:
        self.manager.train(epochs=epochs, validation_split=self.split, verbose=False)

    def _learn(self, number: int) -> None:
        self.manager.training_engine.train_on_example(self._example(number))

    def _validate(self) -> None:
        self.manager.validate()

    def _export(self) -> None:
        self.manager.export_weights(self.folder / WEIGHTS)

    def _import(self) -> None:
        self.manager.import_weights(self.folder / WEIGHTS)

    def _reopen(self) -> None:
        self.close()
        self.open()

    def _replace(self, number: int) -> None:
        self.manager.replace_ground_truth(self._example(number).example_id, self.pictures / f"other_truth_{number}.png")

    def _remove(self, number: int) -> None:
        self.manager.remove_training_example(self._example(number).example_id)

    def _reset(self) -> None:
        self.manager.reset_weights()

    def _example(self, number: int) -> Any:
        return next(e for e in self.manager.data_manager.iterate_examples() if e.metadata["name"] == f"e{number}")


def log_of(folder: Path) -> Path:
    """Return where calls of workers are noted: beside the folder, in which every file call is watched."""
    return folder.with_name(f"{folder.name}.calls")


def mark_of(store: Any) -> Mark:
    examples = tuple((e.metadata["name"], Path(e.ground_truth_path).name) for e in store.iterate_examples())
    return examples, json.dumps(sorted(store.load_state().head.items()))


# --- what a database holds ------------------------------------------------------------------------------------------


def raw(database: Path) -> contextlib.closing[sqlite3.Connection]:
    """Open a database beside the library, to judge it."""
    return contextlib.closing(sqlite3.connect(database, isolation_level=None, timeout=60.0))


def soundness(database: Path) -> list[str]:
    """Return what SQLite itself finds wrong with a file."""
    with raw(database) as connection:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
        return found + [f"foreign key: {row}" for row in connection.execute("PRAGMA foreign_key_check")]


def content(database: Path) -> dict[str, list[Any]]:
    """Return all that must be the same after whatever happened: no times, no durations, no ids drawn by lot.

    Sessions that did not complete are left out. An example goes by its contents, since its id is drawn by lot.
    """
    with raw(database) as connection:
        files = dict(connection.execute("SELECT example_id, files FROM example_files").fetchall())
        examples = connection.execute(
            "SELECT example_id, source_path, target_path, ground_truth_path, metadata, worker_results, "
            "validation_scores FROM training_examples JOIN example_files USING (example_id) ORDER BY sequence"
        ).fetchall()
        sessions = connection.execute(
            "SELECT s.session_id, num_examples, epochs, learning_rate, initial_weights, final_weights, "
            "metrics_history, details FROM training_sessions s JOIN session_details USING (session_id) "
            "WHERE status = 'completed' ORDER BY sequence"
        ).fetchall()
        metrics = connection.execute(
            "SELECT session_id, epoch, example_id, worker_id, accuracy, confidence, loss FROM training_metrics "
            "ORDER BY id"
        ).fetchall()
        learned = {
            "evaluations": connection.execute(
                "SELECT example_digest, worker_id, worker_fingerprint, metric_fingerprint, reader_version, accuracy, "
                "confidence, failure_kind, failure_type, failure_message FROM evaluations ORDER BY 1, 2, 3, 4, 5"
            ).fetchall(),
            "previews": connection.execute("SELECT example_digest, name, png FROM previews ORDER BY 1, 2").fetchall(),
            "learned head": connection.execute("SELECT * FROM learned_head ORDER BY 1").fetchall(),
            "learned rows": connection.execute("SELECT * FROM learned_rows ORDER BY 1").fetchall(),
        }
    numbers = {session_id: number for number, (session_id, *_rest) in enumerate(sessions)}
    known = {example_id: (Path(target).name, files[example_id]) for example_id, _source, target, *_rest in examples}
    # An example that was removed, or changed, since a session is still told by its place among the session's rows.
    return learned | {
        "examples": [
            (*(Path(path).name for path in paths), files[example_id], *map(_without_times, documents))
            for example_id, *row in examples
            for paths, documents in [(row[:3], row[3:])]
        ],
        "sessions": [(*row, _details(details, known)) for _session_id, *row, details in sessions],
        "metrics": [
            (numbers.get(session_id, session_id), epoch, known.get(example_id, "(removed)"), *values)
            for session_id, epoch, example_id, *values in metrics
        ],
    }


def _without_times(text: str | None) -> Any:
    document = None if text is None else json.loads(text)
    for part in [document, *(document or {}).values()]:
        if isinstance(part, dict):
            part.pop("seconds", None)
            part.pop("validated_at", None)
    return document


def _details(text: str, known: Mapping[str, tuple[str, str]]) -> Any:
    details = json.loads(text)
    for ids in ("training_ids", "validation_ids"):
        details[ids] = len(details[ids])
    for judged in (details["validation"] or {}).get("per_example", ()):
        judged["example_id"] = known.get(judged["example_id"], "(removed)")
    return details


def exported(file: Path) -> Any:
    """Return a weights file without its time; None where there is none, its bytes where it is torn."""
    try:
        document = json.loads(content_of := file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return content_of
    document.pop("exported_at", None)
    return document


def statuses(database: Path) -> collections.Counter[str]:
    with raw(database) as connection:
        rows = connection.execute("SELECT status, COUNT(*) FROM training_sessions GROUP BY status").fetchall()
    return collections.Counter(dict(rows))


def evaluation_counts(database: Path, pictures: Path) -> collections.Counter[tuple[str, str]]:
    """Return how often a worker's result on an example's pictures is stored, by worker and name of the pictures."""
    names = json.loads((pictures / "names.json").read_text(encoding="utf-8"))
    digests = _digests(pictures)
    by_number = {number: name for name, number in names.items()}
    with raw(database) as connection:
        rows = connection.execute("SELECT worker_id, example_digest FROM evaluations").fetchall()
    return collections.Counter((worker_id, by_number[digests[digest]]) for worker_id, digest in rows)


@functools.cache
def _digests(pictures: Path) -> dict[str, int]:
    """Return the number of the example for each possible digest of contents."""

    def sha(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    digests = {}
    for number in range(len(list(pictures.glob("source_*.png")))):
        source, target, truth = triple(pictures, number)
        for other in (truth, pictures / f"other_truth_{number}.png"):
            joined = "\n".join(map(sha, (source, target, other)))
            digests[hashlib.sha256(joined.encode()).hexdigest()] = number
    return digests


def calls_since(folder: Path, offset: int) -> tuple[list[tuple[str, str, float]], int]:
    """Return the calls of workers that were noted behind an offset of the log, and its present end."""
    log = log_of(folder)
    if not log.exists():
        return [], 0
    content_of = log.read_bytes()
    calls = [line.split() for line in content_of[offset:].decode().splitlines()]
    return [(worker_id, name, float(moment)) for worker_id, name, moment in calls], len(content_of)


# --- a plan that nobody disturbed -----------------------------------------------------------------------------------


@attrs.frozen
class Reference:
    """What a plan gives when nobody disturbs it."""

    steps: tuple[Step, ...]
    marks: Sequence[Mark]
    """Before the first step, and after each."""
    content: Mapping[str, Any]
    exports: Sequence[Any]
    """The weights file after each step."""
    evaluations: Mapping[tuple[str, str], int]
    seconds: float
    events: int
    """How many boundaries of statements and file calls there are."""

    def position(self, acknowledged: int, mark: Mark) -> int | None:
        """Return the next step to do, given what was acknowledged and what the store says; None if they disagree."""
        if mark == self.marks[acknowledged]:
            return acknowledged
        if acknowledged < len(self.steps) and mark == self.marks[acknowledged + 1]:
            return acknowledged + 1  # the step was committed, but the process could not say so any more
        return None


def reference_of(
    folder: Path, pictures: Path, steps: tuple[Step, ...], *, nap: float = 0.0, split: float = 0.25
) -> Reference:
    """Work through a plan in a child, watched but undisturbed."""
    folder.mkdir()

    def work(tell: Tell) -> None:
        counter = [0]

        def count(call: Call) -> None:
            counter[0] += is_boundary(call)

        def note_progress() -> None:
            before = counter[0]
            tell(json.dumps([host.mark(), exported(folder / WEIGHTS)]))
            counter[0] = before  # looking is no part of the plan

        host = Host(folder, pictures, nap, split=split)
        started = time.monotonic()
        with watching(count, folder, traces=True):
            host.open()
            note_progress()
            for step in steps:
                host.perform(step)
                note_progress()
            host.close()
        tell(json.dumps([time.monotonic() - started, counter[0]]))

    *progress, last = map(json.loads, in_child(work))
    marks = [(tuple((name, truth) for name, truth in examples), version) for (examples, version), _export in progress]
    database = folder / DATABASE
    return Reference(
        steps=steps,
        marks=marks,
        content=content(database),
        exports=[export for _mark, export in progress],
        evaluations=evaluation_counts(database, pictures),
        seconds=last[0],
        events=last[1],
    )


def is_boundary(call: Call) -> bool:
    """Tell whether a call is a place to stop at: before each statement (each row of many), after each call."""
    return call.moment in {"after", "traced" if call.kind == "sql" else "before"}


def work_through(host: Host, steps: Sequence[Step], start: int, tell: Tell) -> None:
    """Work through the rest of a plan, and acknowledge each step after it is done."""
    for number, step in enumerate(steps[start:], start + 1):
        host.perform(step)
        tell(f"done {number}")
