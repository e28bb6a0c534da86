"""Odd weights files: each is imported whole, or refused by the one error with nothing changed.

    python -m tests.soak.weights_files [--quick] [--n 50000] [--seed 1]

Good files are spoilt in their grammar (values of other kinds, numbers at every edge, keys that are missing, renamed,
there twice or too many, depth, length) and in their bytes (bits, cuts, splices, encodings), and imported into a manager
that has learned something.

It exits with 1 if a file ends or stalls a process, takes more than half a second or 50 MB, raises anything but
`WeightsFileError`, changes anything although it is refused, or leaves behind a learner that cannot be used: one with
weights that are not finite and above 0, shares that do not add up to 1, or an export that cannot be imported again.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
from tests.soak import fuzzing
from tests.soak.fuzzing import Case, Limits, Violation
from tests.support import brightening, pool_of

from tsm_training import BayesianWeightLearner, ExampleEvidence, InMemoryStore, Outcome, TrainingManager
from tsm_training.errors import WeightsFileError
from tsm_training.learning import BlendFits, FittedBlend, Group, LearnedState
from tsm_training.learning.rule import in_group
from tsm_training.weights import WEIGHTS_FORMAT_VERSION, LearnerCell

_QUICK: Final = 400
_WORKERS: Final = ("first", "second", "zweiter, größer")
_NOON: Final = "2025-01-02T12:00:00+00:00"

Node: TypeAlias = "list[tuple[str, Any]] | tuple[Any, ...] | str"
"""An object as its pairs, so that it can have a key twice; a list as a tuple; anything else as it is in the file."""


def _good_files() -> list[Node]:
    """Return files of learners that know little and much, and the guide's short ones."""
    texts = []
    for passes, names in ((0, _WORKERS), (1, _WORKERS), (30, (*_WORKERS, "unknown here")), (5, ("first",))):
        learner = BayesianWeightLearner(0.3)
        rng = random.Random(passes)
        for _ in range(passes):
            outcomes = {name: Outcome(rng.choice((None, rng.random())), rng.random()) for name in names}
            learner.observe([ExampleEvidence(str(rng.random()), outcomes)])
        plain = {
            "format_version": WEIGHTS_FORMAT_VERSION,
            "exported_at": _NOON,
            "alpha": learner.alpha,
            "weights": {name: learner.get_weight(name) for name in names},
        }
        if not passes:
            texts.append(json.dumps(plain))
            continue
        states = (learner.state, _grouped(learner.state, names, rng))
        texts += [json.dumps({**plain, **learner.weights_entries(state)}) for state in states]
    texts.append('{"weights": {"first": 1.5, "second": 0.5}}')
    texts.append(
        '{"weights": {"first": 1}, "alpha": 0.15, "exported_at": "2024-01-01T00:00:00", "note": [1, {"a": null}]}'
    )
    return [_node(json.loads(text)) for text in texts]


def _grouped(state: LearnedState, names: Sequence[str], rng: random.Random) -> LearnedState:
    """Return a state with a fitted blend and some groups, of which one has neither evidence nor a fit."""

    def fitted() -> FittedBlend:
        amounts = {name: rng.random() for name in names}
        total = math.fsum(amounts.values())
        return FittedBlend({name: amount / total for name, amount in amounts.items()}, "greedy", rng.random())

    digests = sorted(state.rows)
    labels = {digest: ("warm", "")[number % 2] for number, digest in enumerate(digests)}
    state = BayesianWeightLearner().with_blends(state, BlendFits(fitted(), "style", labels, {"warm": fitted()}))
    return attrs.evolve(state, groups={**state.groups, "größer\n🎨": Group()})


def _node(value: object) -> Node:
    if isinstance(value, dict):
        return [(key, _node(item)) for key, item in value.items()]
    return tuple(_node(item) for item in value) if isinstance(value, list) else json.dumps(value)


def _text(node: Node) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, tuple):
        return "[" + ", ".join(map(_text, node)) + "]"
    return "{" + ", ".join(f"{json.dumps(key)}: {_text(item)}" for key, item in node) + "}"


_GOOD: Final = _good_files()

# --- the grammar ----------------------------------------------------------------------------------------------------

_VALUES: Final = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e308", "1e-320", "5e-324", "-0.0", "0", "0.0", "-1", "1",
    "1.0", "3", "1000000000", "1000000001", "1e9", "9007199254740993", "1" + "0" * 400, "1" + "0" * 4000,
    "1" + "0" * 5000, "0." + "3" * 3000, "true", "false", "null", '""', '"1.0"',
    '"' + "x" * 5000 + '"', '"\\ud800"', '"\\u0000"', "[]",
    "{}", "[1.0]", '{"a": 1}', "[" * 60 + "]" * 60, "[" * 30_000 + "]" * 30_000, "[" * 90_000, '{"a":' * 40_000,
    "01", "+1", ".5", "1.", "0x10", "1_000", "'1'", "undefined", "1 1", "", "/* */ 1", "[" + "{}," * 200_000 + "1]",
    "[" + "1.5," * 200_000 + "1]", "[" + "1," * 600_000 + "1]",
)  # fmt: skip
_KEYS: Final = (
    "weights", "alpha", "posterior", "prior_strength", "format_version", "exported_at", "prior", "evidence", "first",
    "second", "blend", "shares", "solver", "absorbed", "group_by", "groups", "warm",
    "", "a\nb", "x" * 128, "x" * 129, "\ud800", "\u202e", "🎨", "__proto__", "WEIGHTS", " first",
)  # fmt: skip


def _objects(node: Node) -> list[list[tuple[str, Any]]]:
    found = []
    if isinstance(node, list):
        found = [node]
        node = tuple(item for _key, item in node)
    if isinstance(node, tuple):
        found += [inner for item in node for inner in _objects(item)]
    return found


def _copy(node: Node) -> Node:
    if isinstance(node, list):
        return [(key, _copy(item)) for key, item in node]
    return tuple(map(_copy, node)) if isinstance(node, tuple) else node


def _spoilt(node: Node, rng: random.Random) -> Node:
    """Change one thing in one object of a file."""
    pairs = rng.choice([pairs for pairs in _objects(node) if pairs] or [[("", "1")]])
    at = rng.randrange(len(pairs))
    key, value = pairs[at]
    change = rng.randrange(9)
    if change <= 2:
        pairs[at] = (key, rng.choice(_VALUES))
    elif change == 3:
        pairs[at] = (key, _near(value, rng))
    elif change == 4:
        del pairs[at]
    elif change == 5:
        pairs.insert(rng.randrange(len(pairs) + 1), (key, rng.choice((value, "1"))))
    elif change == 6:
        pairs[at] = (rng.choice(_KEYS), value)
    elif change == 7:
        pairs.insert(at, (rng.choice(_KEYS), rng.choice(("1", "0.5", value, rng.choice(_VALUES)))))
    else:
        pairs += [(f"worker {number}", "1") for number in range(rng.choice((1, 100, 950, 3000, 40_000)))]
    return node


def _near(value: Node, rng: random.Random) -> Node:
    """Return another number: its neighbour, or one a little or much larger or smaller."""
    try:
        number = float(value if isinstance(value, str) else "nan")
    except ValueError:
        number = 1.0
    factor = rng.choice((-1.0, 0.5, 2.0, 1e-12 + 1.0, 1e300, 1e-300))
    return repr(
        rng.choice(
            (math.nextafter(number, 2.0), number * factor, number + rng.uniform(-1, 1), float(int(rng.random() * 5)))
        )
    )


# --- the bytes ------------------------------------------------------------------------------------------------------

_ENCODINGS: Final = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7", "cp1252")


def _bytes(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(data) + 1)
        choice = rng.randrange(4)
        if choice == 0:
            data.insert(place, rng.choice(b'0123456789eE+-.{}[]",:\\u tfn\0\n\xff'))
        elif data and choice == 1:
            del data[place % len(data)]
        elif data and choice == 2:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif data:
            data[place % len(data)] = rng.randrange(256)
    return data


def _cut(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _splice(data: bytearray, rng: random.Random) -> bytearray:
    other = _text(rng.choice(_GOOD)).encode()
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _around(data: bytearray, rng: random.Random) -> bytearray:
    before = rng.choice((b"", b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\0", b"\x1f\x8b", b"#"))
    after = rng.choice((b"", b"\n\n", b" x", b"\0", b"{}", b",", b" " * rng.choice((100, 999_000, 1_100_000))))
    return bytearray(before + data + after)


def _repeat(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.choice((1, 5, 40))]
    return data[:start] + part * rng.choice((2, 10, 5000)) + data[start:]


def _recoded(data: bytearray, rng: random.Random) -> bytearray:
    return bytearray(data.decode(errors="replace").encode(rng.choice(_ENCODINGS), errors="replace"))


_BYTES: Final[tuple[Callable[[bytearray, random.Random], bytearray], ...]] = (
    _bytes, _bytes, _bytes, _cut, _splice, _around, _repeat, _recoded,
)  # fmt: skip


# --- the run --------------------------------------------------------------------------------------------------------


class WeightsFiles:
    """Imports each file into a manager that has learned something; after a success into a new one."""

    limits = Limits(seconds=0.5, num_bytes=50_000_000)

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.path, self.home, self.again = (folder / name for name in ("weights.json", "home.json", "again.json"))
        self.manager: TrainingManager | None = None

    def make(self, number: int) -> Case:
        rng = random.Random(f"{self.seed}/{number}")
        base = rng.randrange(len(_GOOD))
        node = _copy(_GOOD[base])
        changes, damages = rng.choice(((0, 1), (1, 0), (1, 0), (2, 0), (3, 0), (1, 1), (0, 2), (0, 0)))
        for _ in range(changes):
            node = _spoilt(node, rng)
        data = bytearray(_text(node).encode(errors="surrogatepass"))
        kinds = [rng.choice(_BYTES) for _ in range(damages)]
        for damage in kinds:
            data = damage(data, rng)
        made = ", ".join([f"{changes} changes", *(kind.__name__.strip("_") for kind in kinds)])
        return Case(number, f"file {base}: {made}", bytes(data))

    def prepare(self) -> None:
        """Make a manager that has learned something."""
        pool = pool_of(*(brightening(name, 10) for name in _WORKERS))
        self.manager = TrainingManager(pool, BayesianWeightLearner(), storage=InMemoryStore())
        self.home.write_text(_text(_GOOD[2]), encoding="utf-8")  # with a blend and groups
        self.manager.import_weights(self.home)

    def check(self, case: Case) -> Sequence[str]:
        assert self.manager is not None
        self.path.write_bytes(case.data)
        learner, store = self.manager.weight_learner, self.manager.data_manager
        before = (learner.cell.snapshot, learner.get_all_statistics(), store.load_state(None))
        try:
            report = self.manager.import_weights(self.path)
        except WeightsFileError as error:
            if (learner.cell.snapshot, learner.get_all_statistics(), store.load_state(None)) != before:
                raise Violation("was refused, and yet something changed") from error
            if len(str(error)) > 1000 + len(str(self.path)):
                raise Violation(f"has an error of {len(str(error))} characters") from error
            return ["refused"]
        if {*report.imported, *report.missing} != set(_WORKERS) or not report.imported:
            raise Violation(f"reports {report}")
        self._check_learner()
        self.prepare()
        return ["imported"]

    def _check_learner(self) -> None:
        """See that what was imported can be used, exported and imported again."""
        assert self.manager is not None
        learner = self.manager.weight_learner
        state = learner.cell.state
        groups = [learner.with_cell(LearnerCell(in_group(state, label, 3.0))) for label in [*state.groups][:5]]
        for use in (learner, *groups):
            numbers = [number for known in use.get_all_statistics().values() for number in _numbers(known)]
            if not all(map(math.isfinite, numbers)) or not all(weight > 0 for weight in use.get_all_weights().values()):
                raise Violation(f"gives {use.get_all_statistics()}")
            shares = use.get_blend_weights()
            if not all(share >= 0 for share in shares.values()) or not math.isclose(math.fsum(shares.values()), 1.0):
                raise Violation(f"gives the shares {shares}")
        self.manager.export_weights(self.again)
        self.manager.import_weights(self.again)
        if learner.cell.state != state:
            raise Violation("changes when it is exported and imported again")


def _numbers(known: Mapping[str, Any]) -> list[float]:
    flat = [item for value in known.values() for item in (value if isinstance(value, tuple) else (value,))]
    return [float(item) for item in flat if item is not None]


def main() -> int:
    arguments = fuzzing.options("Odd weights files.", 50_000).parse_args()
    if arguments.quick:
        arguments.n = _QUICK
    with tempfile.TemporaryDirectory() as folder:
        return fuzzing.main(
            WeightsFiles(arguments.seed, Path(folder)), arguments.n, arguments, "tests.soak.weights_files"
        )


if __name__ == "__main__":
    sys.exit(main())
