"""Looks that are found among examples without labels."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import html5lib
import numpy as np
import pytest

from support import brightening, manager_with, pool_of, save
from test_learned_look import LOOK, STYLES, Look, example, observed, photo, request
from tsm_training import LearnedLook, Observation, TrainingDataManager, TrainingManager, WorkerPool
from tsm_training.analysis import adjusted_rand_index
from tsm_training.color_transfer import LookCluster, learned_look
from tsm_training.engine import FoundLooks
from tsm_training.errors import ExampleNotFoundError, NoExamplesError

ROWS = [(list(STYLES)[i % 3], i % 12, (5 * i + 3) % 11) for i in range(24)]
LOOKS = [[i for i in range(24) if i % 3 == k] for k in range(3)]
"""The examples of each look, in order of addition."""


def inverted(image: Any) -> Any:
    return 255 - image


def places(found: Sequence[LookCluster]) -> list[tuple[int, ...]]:
    return sorted(look.members for look in found)


@pytest.fixture(scope="module")
def observations() -> list[Observation]:
    return [example(look, source, target) for look, source, target in ROWS]


# --- what is alike ----------------------------------------------------------------------------------------------------


def test_known_looks_are_found_without_labels(observations: list[Observation]) -> None:
    found = LOOK.find_looks(observations)
    assert places(found) == sorted(map(tuple, LOOKS))
    assert all(0.9 < look.agreement <= 1 and look.centre in look.members for look in found)


def test_an_example_unlike_all_others_stays_alone(observations: list[Observation]) -> None:
    stranger = observed(inverted(photo(3)), photo(4), inverted(photo(4)))
    found = LOOK.find_looks([*observations, stranger])
    assert places(found) == sorted([*map(tuple, LOOKS), (24,)])


def test_one_look_is_not_divided() -> None:
    found = LOOK.find_looks([example("warm", i, i + 1) for i in range(10)])
    assert places(found) == [tuple(range(10))]


def test_the_order_of_observations_does_not_matter(observations: list[Observation]) -> None:
    order = random.Random(1).sample(range(24), 24)
    shuffled = LOOK.find_looks([observations[place] for place in order])
    again = [tuple(sorted(order[row] for row in look.members)) for look in shuffled]
    assert sorted(again) == places(LOOK.find_looks(observations))


def test_those_behind_the_first_thousand_join_the_looks_or_stay_alone(
    observations: list[Observation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_look, "MOST_OBSERVATIONS", 9)
    digests = [f"{number:064x}" for number in range(25)]
    # the first nine show each look three times
    rows = [attrs.evolve(o, digest=digest) for o, digest in zip(observations, digests, strict=False)]
    stranger = attrs.evolve(observed(inverted(photo(3)), photo(4), inverted(photo(4))), digest=digests[-1])
    found = LOOK.find_looks([*rows, stranger])
    assert places(found) == sorted([*map(tuple, LOOKS), (24,)])
    assert found[-1].members == (24,)


def test_few_examples_are_no_trouble(observations: list[Observation]) -> None:
    assert LOOK.find_looks([]) == []
    assert places(LOOK.find_looks(observations[:1])) == [(0,)]
    same = [attrs.evolve(observations[0], digest=f"{number:064x}") for number in range(3)]
    assert places(LOOK.find_looks(same)) == [(0, 1, 2)]


def test_targets_that_nobody_changed_are_one_look() -> None:
    found = LOOK.find_looks([observed(photo(i), photo(i + 20), photo(i + 20)) for i in range(4)])
    assert [(look.members, look.agreement) for look in found] == [((0, 1, 2, 3), 1.0)]


def numbers(observations: list[Observation]) -> str:
    """Return the looks, and how much each example counts for an answer, to the last bit."""
    fitted: Any = LOOK.fit(observations)
    return repr((LOOK.find_looks(observations), fitted.get_influence(request("warm"), photo(91))))


_LOOKS_ELSEWHERE = """
from test_learned_look import LOOK, example
from test_looks import ROWS, numbers
print(numbers([example(look, source, target) for look, source, target in ROWS]))
"""


@pytest.mark.slow
def test_the_number_of_threads_does_not_matter(observations: list[Observation]) -> None:
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-c", _LOOKS_ELSEWHERE]
    done = subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent, env=environment)
    assert done.stdout.decode().strip() == numbers(observations)


# --- agreement of partitions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("aabb", "xxyy", 1.0),
        ("aabb", "yyxx", 1.0),
        ("aabb", "xyxy", -0.5),
        ("aaab", "xxyy", 0.0),
        ("aaaa", "wxyz", 0.0),
        ("abcd", "wxyz", 1.0),
        ("aaaa", "xxxx", 1.0),
        ("", "", 1.0),
        ("aabbcc", "aabbbc", 4 / 9),
    ],
)
def test_the_adjusted_rand_index_is_that_of_hubert_and_arabie(first: str, second: str, expected: float) -> None:
    assert adjusted_rand_index(first, second) == pytest.approx(expected)
    assert adjusted_rand_index(second, first) == pytest.approx(expected)


def test_unrelated_partitions_agree_about_as_much_as_chance_has_it() -> None:
    rng = np.random.default_rng(0)
    scores = [adjusted_rand_index(*rng.integers(0, 4, (2, 60)).tolist()) for _ in range(200)]
    assert abs(float(np.mean(scores))) < 0.01


# --- among stored examples --------------------------------------------------------------------------------------------


def add(manager: TrainingManager, folder: Path, number: int, change: Look, **metadata: Any) -> str:
    _look, source, target = ROWS[number % 24]
    pictures = change(photo(source)), photo(target), change(photo(target))
    paths = [save(folder / f"{number}_{k}.png", each) for k, each in enumerate(pictures)]
    return manager.add_training_examples([(paths[0], paths[1], paths[2], metadata)])[0].example_id


def filled(folder: Path, pool: WorkerPool | None = None, **settings: Any) -> tuple[TrainingManager, list[str]]:
    manager = manager_with(folder, examples=0, pool=pool or pool_of(LearnedLook()), **settings)
    ids = []
    for number, (look, _source, _target) in enumerate(ROWS):
        ids.append(
            add(
                manager,
                folder,
                number,
                STYLES[look],
                style=look,
                photo=f"p{number % 5}",
                rank=number,
                name=f"n{number}",
            )
        )
    return manager, ids


def test_stored_examples_are_divided_and_compared_with_what_metadata_names(tmp_path: Path) -> None:
    manager, ids = filled(tmp_path)
    found = manager.looks()
    assert sorted(look.members for look in found.looks) == sorted(tuple(ids[i] for i in look) for look in LOOKS)
    assert found.alone == ()
    assert found.left_out == {}
    assert found.agreement.keys() == {"style", "photo"}
    assert found.agreement["style"] == 1.0
    assert abs(found.agreement["photo"]) < 0.2
    assert {look.names["style"] for look in found.looks} == {(look, 8) for look in STYLES}
    manager.close()


def test_a_reopened_database_needs_no_pictures(tmp_path: Path) -> None:
    manager, _ids = filled(tmp_path, db_path=tmp_path / "x.db")
    with manager:
        expected = manager.looks()
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with manager_with(tmp_path, examples=0, pool=pool_of(LearnedLook()), db_path=tmp_path / "x.db") as again:
        assert again.looks() == expected


def test_a_store_that_is_only_read_keeps_nothing_and_gives_the_same(tmp_path: Path) -> None:
    manager, _ids = filled(tmp_path, pool_of(brightening("a", 5)), db_path=tmp_path / "x.db")
    manager.close()
    store = TrainingDataManager(tmp_path / "x.db", read_only=True)
    with manager_with(tmp_path, examples=0, storage=store) as looking:
        seen = looking.looks()
    with manager_with(tmp_path, examples=0, db_path=tmp_path / "x.db") as again:
        assert again.looks() == seen
    assert seen.agreement["style"] == 1.0


def test_any_pool_will_do(tmp_path: Path) -> None:
    manager, _ids = filled(tmp_path, pool_of(brightening("a", 5)))
    assert manager.looks().agreement["style"] == 1.0
    assert manager.data_manager.get_all_examples()[0].worker_results is None


def test_some_examples_may_be_chosen(tmp_path: Path) -> None:
    manager, ids = filled(tmp_path)
    seen: list[Any] = []
    found = manager.looks(example_ids=[*ids[:6], ids[0]], on_progress=seen.append)
    assert sorted(each for look in found.looks for each in look.members) == sorted(ids[:6])
    assert seen
    with pytest.raises(ExampleNotFoundError):
        manager.looks(example_ids=["nobody"])


def test_copies_belong_to_one_look_and_strangers_to_none(tmp_path: Path) -> None:
    manager, ids = filled(tmp_path)
    first = manager.data_manager.get_example(ids[0])
    copy = manager.add_training_example(first.source_path, first.target_path, first.ground_truth_path).example_id
    stranger = add(manager, tmp_path, 30, inverted)
    lost = add(manager, tmp_path, 31, inverted)
    (tmp_path / "31_1.png").unlink()
    found = manager.looks()
    assert next(look for look in found.looks if copy in look.members).members[-1] == copy
    assert found.looks[0].members[0] == ids[0]
    assert found.alone == (stranger,)
    assert found.left_out.keys() == {lost}
    assert "31_1.png" in found.left_out[lost]
    assert found.agreement["style"] == 1.0


def test_without_examples_there_is_nothing_to_find(tmp_path: Path) -> None:
    with manager_with(tmp_path, examples=0) as manager, pytest.raises(NoExamplesError):
        manager.looks()


def test_pictures_that_cannot_be_noted_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, ids = filled(tmp_path)

    def refuse(*_pictures: object) -> bytes:
        raise ValueError("no room")

    monkeypatch.setattr(LearnedLook, "observe", refuse)
    found = manager.looks()
    assert not found.looks
    assert not found.alone
    assert found.left_out.keys() == set(ids)
    assert "no room" in found.left_out[ids[0]]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_it_shows_itself_as_text_html_and_json(tmp_path: Path) -> None:
    manager, _ids = filled(tmp_path)
    add(manager, tmp_path, 30, inverted, style="<b>")
    found = manager.looks()
    text, html = str(found), found._repr_html_()
    html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(html)
    for shown in (text, html):
        assert "3 looks found" in shown
        assert "1 example" in shown
        assert "warm" in shown
        assert all(look.centre[:8] in shown for look in found.looks)
    document = json.loads(json.dumps(found.to_dict()))
    assert document["looks"][0]["members"] == list(found.looks[0].members)
    assert document["looks"][0]["names"]["style"]["count"] == 8
    assert document["alone"] == list(found.alone)


def test_nothing_found_is_said_plainly() -> None:
    nothing = FoundLooks((), ("a",), {}, {"b": "lost"})
    assert str(nothing) == "0 looks found\n  like no other: 1 example\n  left out: 1 example"


def test_plain_pictures_without_metadata_do(tmp_path: Path) -> None:
    with manager_with(tmp_path, 4) as manager:  # all made brighter by 20 levels
        found = manager.looks()
    assert [len(look.members) for look in found.looks] == [4]
    assert found.agreement == {}
