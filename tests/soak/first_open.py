"""Processes that open a new path at the same moment: no errors, one schema, one identity.

Run it from the root of the repository: ``python -m tests.soak.first_open [--quick]``. Every fourth file is not new but
an application's own by the user's guide, with an example in it, so that all of them find it in need of an upgrade.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import sys
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from tests.soak.counting import counted_pool
from tests.soak.support import Tell, Verdict, fork, make_pictures, parse, raw, scratch, soundness, triple

from tsm_training import BayesianWeightLearner, TrainingManager
from tsm_training.storage.sqlite.schema import GUIDE_SCHEMA


def by_the_guide(path: Path, pictures: Path) -> None:
    with raw(path) as connection:
        connection.executescript(GUIDE_SCHEMA)
        row = ("old", *map(str, triple(pictures, 0)), "2024-05-01T12:00:00", "{}", None, None)
        connection.execute("INSERT INTO training_examples VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def open_all(paths: list[Path], pictures: Path, barrier: Barrier, number: int, tell: Tell) -> None:
    """Open one path after the other, each together with the others, and add an example to it."""
    for path in paths:
        barrier.wait(60.0)
        started = time.monotonic()
        try:
            with TrainingManager(counted_pool(), BayesianWeightLearner(), path) as manager:
                seconds = time.monotonic() - started
                manager.add_training_example(*triple(pictures, number), {"process": number})
                tell(json.dumps([manager.data_manager.store_id, seconds]))
        except Exception as error:
            tell(json.dumps([None, f"{type(error).__name__}: {error}"]))


def schema_of(path: Path) -> list[Any]:
    with raw(path) as connection:
        return sorted(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall(), key=repr)


def main() -> int:
    options = parse(__doc__, rounds=(200, 8, "rounds"), processes=(8, 8, "processes"))
    verdict = Verdict("first_open", options.seed)
    errors = 0
    slowest = 0.0
    with scratch(verdict) as folder:
        pictures = folder / "pictures"
        make_pictures(pictures, options.processes)
        paths = [folder / f"{number}.db" for number in range(options.rounds)]
        for path in paths[3::4]:
            by_the_guide(path, pictures)
        barrier = multiprocessing.get_context("fork").Barrier(options.processes)
        children = [
            fork(lambda tell, number=number: open_all(paths, pictures, barrier, number, tell))  # type: ignore[misc]
            for number in range(options.processes)
        ]
        answers = [[json.loads(line) for line in child.wait()] for child in children]
        for child in children:
            verdict.expect(child.status == 0, f"a process ended with {child.status}")
        plain, upgraded = schema_of(paths[0]), schema_of(paths[3]) if len(paths) > 3 else []
        for number, path in enumerate(paths):
            seen = [answer[number] for answer in answers if len(answer) > number]
            for store_id, result in seen:
                errors += store_id is None
                verdict.expect(store_id is not None, f"round {number}: {result}")
                slowest = max(slowest, result if store_id else 0.0)
            ids = {store_id for store_id, _result in seen if store_id}
            is_upgrade = number % 4 == 3
            verdict.expect(len(ids) == 1, f"round {number}: the processes saw the identities {ids}")
            verdict.expect(schema_of(path) == (upgraded if is_upgrade else plain), f"round {number}: another schema")
            verdict.expect(not (wrong := soundness(path)), f"round {number}: {wrong}")
            with raw(path) as connection:
                rows = connection.execute("SELECT store_id FROM store_identity").fetchall()
                added = connection.execute(
                    "SELECT e.example_id, e.metadata FROM training_examples e JOIN example_files USING (example_id)"
                ).fetchall()
            verdict.expect(rows == [(next(iter(ids), None),)], f"round {number}: stored identities {rows}")
            wanted = collections.Counter(json.dumps({"process": p}) for p in range(options.processes))
            wanted.update(["{}"] * is_upgrade)
            found = collections.Counter(metadata for _example_id, metadata in added)
            verdict.expect(found == wanted, f"round {number}: the examples are {found}")
            copies = len(list(folder.glob(f"{path.name}.schema-*")))
            verdict.expect(copies == is_upgrade, f"round {number}: {copies} copies of the file as it was")
    return verdict.close(
        f"{options.rounds} rounds of {options.processes} processes opening one path together "
        f"(every fourth an application's own): {errors} errors, slowest opening {slowest:.2f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
