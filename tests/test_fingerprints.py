from __future__ import annotations

import enum
import fractions
import functools
import inspect
import operator
import os
import pathlib
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from tsm_training.arrays import Image
from tsm_training.fingerprints import describe_object
from tsm_training.metrics import GuideSimilarity
from tsm_training.workers import FunctionWorker, Worker


class Mode(enum.Enum):
    FAST = 1
    GOOD = 2


@attrs.frozen
class Inner:
    radius: int = 3


@attrs.frozen
class Configured(Worker):
    worker_id: str = "w"
    strength: Any = 0.5
    _cache: dict[str, int] = attrs.field(factory=dict)

    def process(self, data: Any) -> Image:
        picture: Image = data["target"]
        return picture


class Plain(Worker):
    worker_id = "plain"

    def __init__(self, strength: Any, version: str = "") -> None:
        self.strength = strength
        self._private = object()
        self._version = version

    @property
    def version(self) -> str:
        return self._version

    def process(self, data: Any) -> Image:
        picture: Image = data["target"]
        return picture


class Slotted:
    __slots__ = ("_hidden", "never_set", "radius")

    def __init__(self, radius: int) -> None:
        self.radius = radius
        self._hidden = object()


class OneSlot:
    __slots__ = "radius"  # noqa: PLC0205 - allowed by Python, so it must be understood

    def __init__(self, radius: int) -> None:
        self.radius = radius


def describe(strength: Any) -> str:
    return describe_object(Configured(strength=strength))


# --- settings -------------------------------------------------------------------------------------------------------

# Pairs of settings that make different workers.
DIFFERENT: list[tuple[Any, Any]] = [
    (0.5, 0.25),
    (1, 1.0),
    (1, True),
    (0, None),
    ("1", 1),
    (b"x", "x"),
    (0.0, -0.0),
    (1j, 2j),
    ((1, 2), (2, 1)),
    ([1, [2]], [1, [3]]),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    ({1: "a"}, {"1": "a"}),
    ({"a", "b"}, {"a", "c"}),
    (frozenset({1}), frozenset({2})),
    (np.arange(3), np.arange(1, 4)),
    (np.arange(3), np.arange(3, dtype=np.int32)),
    (np.zeros((2, 3)), np.zeros((3, 2))),
    (np.float32(0.5), np.float32(0.25)),
    (np.uint8(1), np.uint8(2)),
    (Inner(3), Inner(5)),
    ([Inner(3)], [Inner(5)]),
    (Slotted(3), Slotted(5)),
    (OneSlot(3), OneSlot(5)),
    (Plain(3), Plain(5)),
    (Mode.FAST, Mode.GOOD),
    (pathlib.PurePosixPath("a"), pathlib.PurePosixPath("b")),
    (fractions.Fraction(1, 2), fractions.Fraction(1, 3)),
    (range(3), range(4)),
    (len, max),
    (np.minimum, np.maximum),
    (operator.itemgetter(1), operator.itemgetter(2)),
    (np.mean, np.median),
    (types, functools),
    (Inner, Slotted),
    (functools.partial(pow, 2), functools.partial(pow, 3)),
    (functools.partial(pow, 2), functools.partial(divmod, 2)),
    (functools.partial(int, base=2), functools.partial(int, base=8)),
    (Plain(3).process, Plain(5).process),
    (Plain(3).process, Plain(3).get_confidence),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_fingerprint_changes_with_a_setting(one: Any, other: Any) -> None:
    assert describe(one) == describe(one)
    assert describe(one) != describe(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (set("abcdef"), set("fedcba")),
        (np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2).T.copy().T.reshape(2, 3)),
        (np.arange(9)[::2], np.arange(9)[::2].copy()),
        (Inner(3), Inner(3)),
        (Slotted(3), Slotted(3)),
        (Plain(3), Plain(3)),
        (functools.partial(describe, 2), functools.partial(describe, 2)),
        (pathlib.PurePosixPath("a"), pathlib.PurePosixPath("a")),
        (np.float64(0.5), np.float64(0.5)),
    ],
)
def test_equal_settings_have_equal_fingerprints(one: Any, other: Any) -> None:
    assert describe(one) == describe(other)


def test_a_fingerprint_is_32_hexadecimal_digits() -> None:
    for thing in (Configured(), GuideSimilarity(), describe, len, None, "\ud800"):
        assert len(describe_object(thing)) == 32
        assert set(describe_object(thing)) <= set("0123456789abcdef")


def test_the_declared_version_and_the_id_count_and_private_attributes_do_not() -> None:
    prints = [describe_object(Plain(1, version)) for version in ("", "1", "2")]
    assert len(set(prints)) == 3
    assert describe_object(Plain(1, "1")) == prints[1]
    assert describe_object(Configured("v")) != describe_object(Configured("w"))
    assert describe_object(Configured(cache={"a": 1})) == describe_object(Configured(cache={}))


def test_settings_that_contain_themselves_are_described() -> None:
    def circle(radius: int) -> Plain:
        worker = Plain([radius])
        worker.strength.append(worker)
        return worker

    assert describe_object(circle(1)) == describe_object(circle(1))
    assert describe_object(circle(1)) != describe_object(circle(2))


def test_settings_that_all_know_each_other_take_no_time() -> None:
    nodes: list[list[Any]] = [[number] for number in range(60)]
    for node in nodes:
        node.extend(nodes)
    layered: list[Any] = [1]
    for _ in range(60):
        layered = [layered, layered]
    assert describe(nodes) == describe(nodes)
    assert describe(layered) != describe([layered])


# --- code -----------------------------------------------------------------------------------------------------------


def make(levels: int, word: str = "") -> Callable[..., Any]:
    def brighten(source: Image, target: Image, *, gain: float = 1.0) -> Any:
        return target * gain + levels if word else target

    return brighten


def test_a_function_is_told_by_its_source_defaults_and_closure() -> None:
    def with_default(source: Image, target: Image, gain: float = 1.0) -> Any:
        return target * gain

    first = describe_object(with_default)
    assert describe_object(make(1)) == describe_object(make(1))
    assert len({describe_object(make(*settings)) for settings in ((1,), (2,), (1, "x"))}) == 3
    with_default.__defaults__ = (2.0,)
    assert describe_object(with_default) != first
    keyword = make(1)
    keyword.__kwdefaults__ = {"gain": 2.0}
    assert describe_object(keyword) != describe_object(make(1))
    assert describe_object(with_default) != describe_object(make)


def test_the_same_code_under_another_function_worker_id_is_another_worker() -> None:
    assert describe_object(FunctionWorker("a", make(1))) == describe_object(FunctionWorker("a", make(1)))
    assert describe_object(FunctionWorker("a", make(1))) != describe_object(FunctionWorker("b", make(1)))
    assert describe_object(FunctionWorker("a", make(1))) != describe_object(FunctionWorker("a", make(2)))
    assert describe_object(FunctionWorker("a", make(1), "1")) != describe_object(FunctionWorker("a", make(1), "2"))


def test_lambdas_on_one_line_are_told_apart() -> None:
    first, second, third = (lambda s, t: s), (lambda s, t: t), (lambda s, t: t if s in {"a", "b"} else 1)  # fmt: skip
    prints = [describe_object(function) for function in (first, second, third)]
    assert len(set(prints)) == 3
    assert describe_object(first) == prints[0]


def test_a_decorated_function_is_told_by_the_decorator_too() -> None:
    def plain(source: Image, target: Image) -> Any:
        return target

    def inverted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(source: Image, target: Image) -> Any:
            return 255 - function(source, target)

        return wrapper

    def doubled(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(source: Image, target: Image) -> Any:
            return 2 * function(source, target)

        return wrapper

    prints = {describe_object(function) for function in (plain, inverted(plain), doubled(plain), inverted(make(1)))}
    assert len(prints) == 4


def test_a_closure_may_hold_modules_and_variables_that_are_not_set_yet() -> None:
    def early() -> str:
        def inner() -> Any:
            return np, later

        before = describe_object(inner)
        later = 1
        assert describe_object(inner) != before
        return before

    library = np

    def uses() -> Any:
        return library

    assert early() == early()
    assert describe_object(uses) == describe_object(uses)


def test_a_closure_variable_called_version_counts() -> None:
    def versioned(version: int) -> Callable[[], int]:
        return lambda: version

    assert describe_object(versioned(1)) != describe_object(versioned(2))


class Base(Worker):
    worker_id = "base"

    def process(self, data: Any) -> Image:
        picture: Image = data["target"]
        return picture


class Derived(Base):
    pass


def test_a_class_is_told_by_the_source_of_its_bases_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (describe_object(Derived()), describe_object(Base()))
    honest = inspect.getsource

    def edited(item: Any) -> str:
        return honest(item) + ("# edited" if item is Base else "")

    monkeypatch.setattr(inspect, "getsource", edited)
    monkeypatch.setattr("tsm_training.fingerprints._class_sources", {})  # as in another process
    assert describe_object(Derived()) != before[0]
    assert describe_object(Base()) != before[1]


def test_a_file_that_was_edited_into_nonsense_leaves_a_fingerprint_for_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_item: Any) -> str:
        raise SyntaxError

    before = describe_object(Base())
    monkeypatch.setattr(inspect, "getsource", broken)
    monkeypatch.setattr("tsm_training.fingerprints._class_sources", {})  # as in another process
    assert describe_object(Base()) == describe_object(Base()) != before


# --- without source -------------------------------------------------------------------------------------------------


def executed(text: str) -> Any:
    names: dict[str, Any] = {"__name__": "nowhere", "Worker": Worker}
    exec(textwrap.dedent(text), names)
    return names["thing"]


BODIES = [
    "def thing(a, b): return a",
    "def thing(a, b): return b",
    "def thing(a, b): return a + 1",
    "def thing(a, b): return a + 2",
    "def thing(a, b): return [x for x in a]",
    "def thing(a, b): return [x + 1 for x in a]",
    "def thing(a, b): return a in {1, 2}",
    "def thing(a, b): return a in {1, 3}",
    "def thing(a, b): return a.min(b)",
    "def thing(a, b): return a.max(b)",
]


def test_a_function_without_source_is_stable_in_one_process_and_differs_with_its_body() -> None:
    functions = [executed(body) for body in BODIES]
    prints = [describe_object(function) for function in functions]
    assert prints == [describe_object(executed(body)) for body in BODIES]
    assert len(set(prints)) == len(BODIES)


def test_each_definition_of_a_class_without_source_is_another_class() -> None:
    body = "class thing:\n    def __init__(self, gain): self.gain = gain\n    def process(self): return self.gain"
    one, other = executed(body), executed(body)
    assert describe_object(one) == describe_object(one) != describe_object(other)
    assert describe_object(one(1)) == describe_object(one(1)) != describe_object(other(1))
    assert describe_object(one(1)) != describe_object(one(2))
    assert describe_object(one(1).process) == describe_object(one(1).process)


SCRIPT = """
import functools, enum, pathlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import their_module as m
from tsm_training.fingerprints import describe_object
names = {"__name__": "nowhere"}
exec("def thing(a, b): return a", names)
exec("class versioned:\\n    version = '1'", names)
with_source = [m.Mine(0.5), m.Mine({"a", "b", "c"}), m.Mine({"x": [1], "y": (2,)}), m.Mine(np.arange(5)), m.function,
    m.Mine(m.Mine), m.Mine(m.Choice.ONE), functools.partial(m.function, 1), m.Mine(0.5).process, m.made(3), m.small,
    m.Mine(0.5).bound(), names["versioned"]()]
print(*map(describe_object, with_source))
print(*map(describe_object, [names["thing"], len, m.Mine(names["thing"])]))
"""

MODULE = """
import enum
import attrs

class Choice(enum.Enum):
    ONE = 1

@attrs.frozen
class Mine:
    strength: object
    def process(self, data): return data
    def bound(self): return self.process

def function(source, target, *, words=frozenset({"a", "b", "c"})): return target

def made(levels):
    def inner(source, target): return target in {"p", "q", "r"}, levels
    return inner

small = lambda source, target: target in {"p", "q", "r"}
"""


@pytest.mark.slow
def test_fingerprints_are_the_same_in_another_process_where_source_can_be_compared(tmp_path: Path) -> None:
    (tmp_path / "their_module.py").write_text(MODULE)
    answers = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        answers.append([line.split() for line in done.stdout.splitlines()])
    (with_source, without), (with_source_again, without_again) = answers
    assert with_source == with_source_again
    assert len(set(with_source)) == len(with_source) - 1  # the method, and the same method again
    assert not set(without) & set(without_again)


def test_the_source_of_a_class_is_read_once_and_never_in_two_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [type(f"Kind{number}", (Configured,), {}) for number in range(4)]
    reading, most, read = [0], [0], []

    def slowly(kind: type) -> str:
        reading[0] += 1
        most[0] = max(most[0], reading[0])
        read.append(kind)
        time.sleep(0.001)
        reading[0] -= 1
        return kind.__name__

    monkeypatch.setattr(inspect, "getsource", slowly)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(describe_object, kinds * 4))
    assert most == [1]
    assert [read.count(kind) for kind in kinds] == [1, 1, 1, 1]
    assert len(set(answers)) == 4
