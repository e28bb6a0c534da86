"""Processes that work on one file while another one locks it for long: nothing is lost, and nobody sees a lock error.

Run it from the root of the repository: ``python -m tests.soak.procs [--quick]``.

Each process performs operations drawn by lot on examples of its own: add, edit, remove, replace the ground truth, train
with a learner of its own, raise a counter in the learned state by read-modify-write, read. All of it goes into one
database, which yet another process locks now and then. Each process also keeps count, in plain memory, of what must
come out; at the end the database is compared with the sum of these accounts: every example, every edit, every session,
and the learned state to the last bit.
"""

from __future__ import annotations

import functools
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
from tests.soak.counting import counted_pool
from tests.soak.support import (
    Child,
    Tell,
    Verdict,
    fork,
    hold_lock,
    make_pictures,
    parse,
    raw,
    scratch,
    soundness,
    triple,
)

from tsm_training import BayesianWeightLearner, ExampleEvidence, Outcome, TrainingExample, TrainingManager
from tsm_training.data import MetricRow
from tsm_training.learning import LearnedState, decoded_state, row_documents
from tsm_training.learning.rule import forget
from tsm_training.weights import Snapshot

ALPHA: Final = 0.15
COUNTER: Final = "counter"
OPERATIONS: Final = {
    "add": 24,
    "edit": 12,
    "replace": 8,
    "remove": 8,
    "learn": 10,
    "train": 6,
    "count": 10,
    "read": 22,
}


def raise_counter(before: Snapshot, _held: object) -> Snapshot:
    state = before.state or LearnedState()
    raised = attrs.evolve(state, priors={**state.priors, COUNTER: state.priors.get(COUNTER, 1.0) + 1.0})
    return attrs.evolve(before, state=raised)


@attrs.define
class Account:
    """One process at work, and what must come out of it."""

    manager: TrainingManager
    pictures: Path
    numbers: list[int]
    lot: random.Random
    examples: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """What is stored of each example, by id."""
    state: LearnedState = attrs.field(factory=LearnedState)
    """What this process's examples have taught."""
    count: int = 0
    """How often this process raised the counter."""
    sessions: list[str] = attrs.field(factory=list)
    metric_rows: int = 0

    def perform(self) -> str:
        """Perform one operation drawn by lot, and return its name."""
        kind = self.lot.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        if kind != "add" and not self.examples:
            kind = "add"
        if kind == "add" and not self.numbers:
            kind = "read"
        operation: Callable[[], None] = getattr(self, f"_{kind}")
        operation()
        return kind

    def _any(self) -> TrainingExample:
        return self.manager.data_manager.get_example(self.lot.choice(list(self.examples)))

    def _note(self, example: TrainingExample, number: int) -> None:
        self.examples[example.example_id] = {
            "truth": example.ground_truth_path,
            "digest": example.known_files.digest,
            "metadata": dict(example.metadata),
            "number": number,
        }

    def _add(self) -> None:
        number = self.numbers.pop()
        self._note(self.manager.add_training_example(*triple(self.pictures, number), {"edits": 0}), number)

    def _edit(self) -> None:
        def edited(stored: TrainingExample) -> TrainingExample:
            return attrs.evolve(stored, metadata={"edits": stored.metadata["edits"] + 1})

        example = self._any()
        self.manager.data_manager.edit_examples({example.example_id: edited})
        self.examples[example.example_id]["metadata"]["edits"] += 1

    def _replace(self) -> None:
        example = self._any()
        known = self.examples[example.example_id]
        number, truth = known["number"], known["truth"]
        names = ("ground_truth", "other_truth")
        other = next(self.pictures / f"{n}_{number}.png" for n in names if not truth.endswith(f"{n}_{number}.png"))
        before = known["digest"]
        self._note(self.manager.replace_ground_truth(example.example_id, other), number)
        self._forget(before)

    def _remove(self) -> None:
        example = self._any()
        self.manager.remove_training_example(example.example_id)
        known = self.examples.pop(example.example_id)
        self.numbers.insert(0, known["number"])
        self._forget(known["digest"])

    def _forget(self, digest: str) -> None:
        self.state = forget(self.state, {digest})

    def _learn(self) -> None:
        example = self._any()
        outcomes = self.manager.training_engine.train_on_example(example)
        evidence = {w: Outcome(o["accuracy"], o["confidence"]) for w, o in outcomes.items()}
        self._absorb([_of(example, evidence)], 1)

    def _train(self) -> None:
        chosen = self.lot.sample(list(self.examples), min(3, len(self.examples)))
        examples = {i: self.manager.data_manager.get_example(i) for i in chosen}
        epochs = self.lot.randrange(1, 4)
        session = self.manager.training_engine.train_batch(list(examples.values()), epochs, False)
        rows = list(self.manager.data_manager.iterate_metrics(session.session_id))
        self.sessions.append(session.session_id)
        self.metric_rows += len(rows)
        self._absorb([_of(example, _evidence(rows, example_id)) for example_id, example in examples.items()], epochs)

    def _absorb(self, evidence: list[ExampleEvidence], passes: int) -> None:
        self.state = BayesianWeightLearner(alpha=ALPHA).absorb(self.state, evidence, passes)

    def _count(self) -> None:
        self.manager.training_engine.learner_storage.change(raise_counter)
        self.count += 1

    def _read(self) -> None:
        example = self._any() if self.examples else None
        if example is not None:
            known = self.examples[example.example_id]
            found = (example.ground_truth_path, dict(example.metadata), example.known_files.digest)
            if found != (known["truth"], known["metadata"], known["digest"]):
                raise AssertionError(f"an example reads as {found}, it was left as {known}")
        self.manager.get_training_progress()
        self.manager.data_manager.get_all_examples(5)

    def summary(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "rows": row_documents(self.state),
            "count": self.count,
            "sessions": self.sessions,
            "metric_rows": self.metric_rows,
        }


def _of(example: TrainingExample, outcomes: dict[str, Outcome]) -> ExampleEvidence:
    return ExampleEvidence(example.known_files.digest, outcomes, target=example.known_files.target.sha256)


def _evidence(rows: list[MetricRow], example_id: str) -> dict[str, Outcome]:
    return {row.worker_id: Outcome(row.accuracy, row.confidence) for row in rows if row.example_id == example_id}


def work(database: Path, pictures: Path, numbers: list[int], *, operations: int, seed: str, tell: Tell) -> None:
    """Perform operations, tell how long each took and, at the end, what must be stored."""
    with TrainingManager(counted_pool(), BayesianWeightLearner(alpha=ALPHA), database) as manager:
        account = Account(manager, pictures, numbers, random.Random(seed))
        # The learner is kept in this store from the beginning, so that each removal is a change of learned state.
        manager.training_engine.prepare_learner(claim=True)
        for _number in range(operations):
            started = time.monotonic()
            try:
                kind = account.perform()
            except Exception as error:
                tell(json.dumps(["error", f"{type(error).__name__}: {error}"]))
                raise
            tell(json.dumps([kind, started, time.monotonic()]))
        tell(json.dumps(["summary", account.summary()]))


def hold(database: Path, pauses: list[float], seconds: float, tell: Tell) -> None:
    """Lock the database again and again."""
    for pause in pauses:
        time.sleep(pause)
        hold_lock(database, seconds, tell)


def compare(verdict: Verdict, database: Path, summaries: list[dict[str, Any]]) -> None:
    """Compare the database with the accounts of all processes."""
    expect = verdict.expect
    expect(not (wrong := soundness(database)), f"{wrong}")
    with raw(database) as connection:
        rows = connection.execute(
            "SELECT example_id, ground_truth_path, metadata FROM training_examples "
            "JOIN example_files USING (example_id)"
        ).fetchall()
        sessions = connection.execute("SELECT session_id, status FROM training_sessions").fetchall()
        metrics = connection.execute("SELECT COUNT(*) FROM training_metrics").fetchone()[0]
        head = connection.execute("SELECT document FROM learned_head WHERE name = 'state'").fetchone()[0]
        learned = dict(connection.execute("SELECT key, document FROM learned_rows"))
        running = connection.execute("SELECT COUNT(*) FROM running_sessions").fetchone()[0]
    wanted = {i: (e["truth"], e["metadata"]) for summary in summaries for i, e in summary["examples"].items()}
    found = {i: (truth, json.loads(metadata)) for i, truth, metadata in rows}
    verdict.expect_same(found, wanted, "examples")
    verdict.expect_same(dict(sessions), {i: "completed" for s in summaries for i in s["sessions"]}, "sessions")
    expect(running == 0, f"{running} sessions are noted as running")
    total = sum(s["metric_rows"] for s in summaries)
    expect(metrics == total, f"{metrics} metric rows instead of {total}")
    verdict.expect_same(learned, {d: row for s in summaries for d, row in s["rows"].items()}, "learned of example")
    nothing = forget(decoded_state(head, learned), learned)
    left = (nothing.totals, nothing.num_examples, nothing.exposure)
    expect(left == ({}, 0, 0), f"without its examples, learned state holds {left}")
    counter = nothing.priors[COUNTER]
    others = {prior for worker_id, prior in nothing.priors.items() if worker_id != COUNTER}
    expect(others == {1.0}, f"priors {others}")
    count = sum(s["count"] for s in summaries)
    expect(counter == 1.0 + count, f"the counter stands at {counter - 1:g} after {count} increments")


def main() -> int:
    options = parse(
        __doc__,
        processes=(8, 8, "processes"),
        ops=(500, 12, "operations of each"),
        hold=(12.0, 1.5, "for how many seconds the file is locked"),
        holds=(3, 2, "how often"),
    )
    verdict = Verdict("procs", options.seed)
    with scratch(verdict) as folder:
        pictures, database = folder / "pictures", folder / "shared.db"
        each = max(8, options.ops // 6)
        make_pictures(pictures, each * options.processes)
        lot = random.Random(options.seed)
        workers: list[Child] = []
        for number in range(options.processes):
            numbers = list(range(number * each, (number + 1) * each))
            process = functools.partial(
                work, database, pictures, numbers, operations=options.ops, seed=f"{options.seed}/{number}"
            )
            workers.append(fork(lambda tell, process=process: process(tell=tell)))  # type: ignore[misc]
        pauses = [lot.uniform(0.5, 2.0 if options.quick else 8.0) for _ in range(options.holds)]
        holder = fork(lambda tell: hold(database, pauses, options.hold, tell))
        lines = [[json.loads(line) for line in child.wait()] for child in workers]
        times = [float(line.split()[1]) for line in holder.wait()]
        verdict.expect(holder.status == 0, f"the process with the lock ended with {holder.status}")
        for number, child in enumerate(workers):
            verdict.expect(child.status == 0, f"process {number} ended with {child.status}")
        operations = [line for told in lines for line in told if line[0] not in {"error", "summary"}]
        errors = [line[1] for told in lines for line in told if line[0] == "error"]
        summaries = [line[1] for told in lines for line in told if line[0] == "summary"]
        if not verdict.broken:
            compare(verdict, database, summaries)
    holds = list(zip(times[::2], times[1::2], strict=True))
    outside = [end - start for _kind, start, end in operations if not any(start < b and end > a for a, b in holds)]
    inside = [end - start for _kind, start, end in operations if any(start < b and end > a for a, b in holds)]
    outside.sort()
    kinds = {kind: sum(line[0] == kind for line in operations) for kind in OPERATIONS}
    return verdict.close(
        f"{options.processes} processes, {len(operations)} operations on one file "
        f"({', '.join(f'{count} {kind}' for kind, count in kinds.items())})",
        f"locked {len(holds)} times for {options.hold:g} s; {len(errors)} errors surfaced",
        f"slowest operation outside the locks {outside[-1] if outside else 0.0:.2f} s, "
        f"99 of 100 within {outside[int(0.99 * len(outside))] if outside else 0.0:.2f} s; "
        f"slowest that met a lock {max(inside, default=0.0):.2f} s",
    )


if __name__ == "__main__":
    sys.exit(main())
