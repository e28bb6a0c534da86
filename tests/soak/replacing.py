"""A database file that is exchanged between calls, in every way: each handle's next call is named or right.

Run it from the root of the repository: ``python -m tests.soak.replacing [--quick]``. A twin of the file goes through as
many changes as the file itself, but other ones, so that SQLite's own count of changes cannot tell them apart.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
from tests.soak.support import Verdict, parse, raw, scratch

from tsm_training.data import StateDelta
from tsm_training.errors import DatabaseNotOursError, StorageCorruptError, StorageMovedError
from tsm_training.storage import TrainingDataManager
from tsm_training.storage.sqlite import connection
from tsm_training.testing import make_example

NAMED: Final = (StorageMovedError, StorageCorruptError, DatabaseNotOursError)
HANDLES: Final = 4
"""The last one is for reading only."""


def seen_by(store: TrainingDataManager) -> dict[str, Any]:
    state = store.load_state(None)
    return {
        "examples": [example.example_id for example in store.iterate_examples()],
        "head": dict(state.head),
        "rows": dict(state.rows),
    }


def content(path: Path) -> dict[str, Any]:
    """Return the same without the library, and without anything that was remembered."""
    with raw(path) as looking:
        examples = looking.execute("SELECT example_id FROM example_files ORDER BY sequence").fetchall()
        return {
            "examples": [example_id for (example_id,) in examples],
            "head": dict(looking.execute("SELECT name, document FROM learned_head")),
            "rows": dict(looking.execute("SELECT key, document FROM learned_rows")),
        }


@attrs.define
class Exchange:
    """One file, its handles, and what may be put in its place."""

    folder: Path
    lot: random.Random
    handles: list[TrainingDataManager] = attrs.field(factory=list)
    number: int = 0

    @property
    def path(self) -> Path:
        return self.folder / "live.db"

    @property
    def twin(self) -> Path:
        return self.folder / "twin.db"

    def write(self, store: TrainingDataManager) -> None:
        self.number += 1
        name = str(self.number)
        if self.lot.random() < 0.3:
            store.add_examples([make_example(name)])
        else:
            store.update_state(lambda _held: StateDelta({"newest": name}, {f"row {self.lot.randrange(20)}": name}))

    def open_all(self) -> None:
        for store in self.handles:
            store.close()
        self.handles = [TrainingDataManager(self.path, read_only=n == HANDLES - 1) for n in range(HANDLES)]

    def make_twin(self) -> None:
        """Copy the file, and take both through the same number of changes."""
        self.handles[0].backup(self.twin, overwrite=True)
        with contextlib.closing(TrainingDataManager(self.twin)) as twin:
            for _ in range(self.lot.randrange(1, 4)):
                self.write(twin)
                self.write(self.lot.choice(self.handles[:-1]))

    # --- the ways ---

    def unlink(self) -> None:
        self.path.unlink()

    def unlink_and_replace(self) -> None:
        bytes_of_twin = self.twin.read_bytes()
        self.path.unlink()
        self.path.write_bytes(bytes_of_twin)

    def rename(self) -> None:
        self.twin.replace(self.path)

    def copy_over(self) -> None:
        self.path.write_bytes(self.twin.read_bytes())

    def copy_over_with_its_time(self) -> None:
        status = self.path.stat()
        self.copy_over()
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def copy_another_store_over(self) -> None:
        with contextlib.closing(TrainingDataManager(self.folder / "other.db")) as other:
            self.write(other)
        self.path.write_bytes((self.folder / "other.db").read_bytes())

    def truncate(self) -> None:
        size = self.path.stat().st_size
        os.truncate(self.path, self.lot.choice([0, 1, 100, 4096, size // 2, size - 4096, size - 1]))

    def restore(self) -> None:
        with raw(self.twin) as source, raw(self.path) as target:
            source.backup(target)


WAYS: Final[list[Callable[[Exchange], None]]] = [
    Exchange.unlink,
    Exchange.unlink_and_replace,
    Exchange.rename,
    Exchange.copy_over,
    Exchange.copy_over_with_its_time,
    Exchange.copy_another_store_over,
    Exchange.truncate,
    Exchange.restore,
]


def main() -> int:
    options = parse(__doc__, rounds=(500, 24, "replacements"))
    verdict = Verdict("replacing", options.seed)
    connection._QUIET_NS = 100_000_000  # this file system counts in milliseconds: so that nobody waits for seconds
    named = right = 0
    with scratch(verdict) as folder:
        exchange = Exchange(folder, random.Random(options.seed))
        exchange.open_all()
        for number in range(options.rounds):
            exchange.make_twin()
            for store in exchange.handles:
                verdict.expect_same(seen_by(store), content(exchange.path), f"round {number}, before")
            if exchange.lot.random() < 0.3:
                time.sleep(0.12)  # long enough for the file to count as untouched
                for store in exchange.handles:
                    store.load_state()
            way = WAYS[number % len(WAYS)]
            way(exchange)
            for which in exchange.lot.sample(range(HANDLES), HANDLES):
                store = exchange.handles[which]
                where = f"round {number}, {way.__name__}, handle {which}"
                try:
                    if which < HANDLES - 1 and exchange.lot.random() < 0.3:
                        exchange.write(store)
                    found = seen_by(store)
                except NAMED:
                    named += 1
                    continue
                right += 1
                verdict.expect_same(found, content(exchange.path), where)
                verdict.expect(way is not Exchange.unlink, f"{where}: it went on")
                with raw(exchange.path) as looking:
                    (sound,) = looking.execute("PRAGMA integrity_check").fetchone()
                verdict.expect(sound == "ok", f"{where}: {sound}")
            if way in {Exchange.truncate, Exchange.copy_another_store_over}:
                exchange.path.unlink()
            exchange.open_all()
        for store in exchange.handles:
            store.close()
    verdict.expect(named > 0, "no replacement was named")
    verdict.expect(right > 0, "no handle went on")
    return verdict.close(
        f"{options.rounds} replacements under {HANDLES} handles: {named} calls named it, {right} were right"
    )


if __name__ == "__main__":
    sys.exit(main())
