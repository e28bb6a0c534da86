import random
from collections import Counter
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsm_training.data import TrainingExample
from tsm_training.evaluation.split import Split, fold_examples, split_examples
from tsm_training.testing import make_example, make_files

LAW = settings(derandomize=True, deadline=None, max_examples=120)
SEEDS = st.integers(0, 1000)
FRACTIONS = st.floats(0.0, 1.0, exclude_max=True)


def grouped(sizes: Sequence[int]) -> list[TrainingExample]:
    """Return examples in groups of these sizes; those of a group have the same target."""
    return [
        make_example(f"{group}-{number}", files=make_files(f"{group}-{number}", target=f"{group}"))
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


DATASETS = st.lists(st.integers(1, 4), min_size=1, max_size=12).map(grouped)


def ids(examples: Sequence[TrainingExample]) -> list[str]:
    return [example.example_id for example in examples]


def targets(examples: Sequence[TrainingExample]) -> set[str]:
    return {example.files.target.sha256 for example in examples if example.files}


def held_out(split: Split) -> set[str]:
    return set(ids(split.validation))


@LAW
@given(DATASETS, FRACTIONS, SEEDS, st.randoms(use_true_random=False))
def test_examples_are_divided_by_their_targets_and_keep_their_order(
    examples: list[TrainingExample], fraction: float, seed: int, shuffler: random.Random
) -> None:
    split = split_examples(examples, fraction, seed)
    validation = held_out(split)
    assert ids(split.training) == [i for i in ids(examples) if i not in validation] != []
    assert ids(split.validation) == [i for i in ids(examples) if i in validation]
    assert bool(validation) == (fraction > 0.0 and len(targets(examples)) > 1)
    assert targets(split.training).isdisjoint(targets(split.validation))
    shuffled = list(examples)
    shuffler.shuffle(shuffled)
    assert held_out(split_examples(shuffled, fraction, seed)) == validation


@pytest.mark.parametrize("sizes", [[1, 2, 9, 3, 1, 6], [20, 1, 1, 1, 1], [2, 2, 2, 1, 7]])
@pytest.mark.parametrize("seed", range(4))
def test_among_groups_of_any_size_the_cut_is_the_nearest_there_is(sizes: list[int], seed: int) -> None:
    examples = grouped(sizes)
    fractions = [step / 200 for step in range(1, 200)]
    found = [len(split_examples(examples, fraction, seed).validation) for fraction in fractions]
    assert len(set(found)) == len(sizes) - 1  # every boundary but the last is the nearest to some fraction
    for fraction, count in zip(fractions, found, strict=True):
        wanted = fraction * len(examples)
        assert abs(count - wanted) == min(abs(cut - wanted) for cut in set(found))


@LAW
@given(st.integers(10, 60), st.integers(1, 5), SEEDS)
def test_growing_data_moves_few_examples(number: int, more: int, seed: int) -> None:
    before = held_out(split_examples(grouped([1] * number), 0.2, seed))
    after = held_out(split_examples(grouped([1] * (number + more)), 0.2, seed))
    old = {f"{group}-0" for group in range(number)}
    # New examples push at most as many old ones over the cut as there are new ones, and one more by rounding.
    assert len(before ^ (after & old)) <= more + 1


@LAW
@given(st.lists(FRACTIONS.filter(bool), min_size=2, max_size=2).map(sorted), SEEDS)
def test_a_larger_fraction_holds_out_the_same_examples_and_more(fractions: list[float], seed: int) -> None:
    examples = grouped([1, 3, 2, 1, 1, 4, 2, 1, 1, 1])
    smaller, larger = (held_out(split_examples(examples, fraction, seed)) for fraction in fractions)
    assert smaller <= larger


def test_another_seed_gives_another_split() -> None:
    examples = grouped([1] * 20)
    splits = {frozenset(held_out(split_examples(examples, 0.2, seed))) for seed in range(20)}
    assert len(splits) > 15


def test_every_example_is_held_out_by_some_seed() -> None:
    examples = grouped([1] * 10)
    seen: Counter[str] = Counter()
    for seed in range(200):
        seen.update(held_out(split_examples(examples, 0.2, seed)))
    assert set(seen) == set(ids(examples))
    assert max(seen.values()) < 80  # 40 would be even


def test_a_shared_source_does_not_bind() -> None:
    source = make_files("shared").source
    examples = [
        make_example(f"e{number}", files=attrs.evolve(make_files(f"e{number}"), source=source)) for number in range(10)
    ]
    assert len(split_examples(examples, 0.2, 0).validation) == 2


def test_the_split_is_the_same_for_ever() -> None:
    split = split_examples(grouped([1, 2, 1, 3, 1, 1]), 0.3, 0)
    assert ids(split.validation) == ["2-0", "5-0"]


def test_nothing_gives_nothing() -> None:
    assert split_examples([], 0.2, 0) == Split((), ())


def test_an_example_whose_files_are_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="'a' were not looked at yet"):
        split_examples([make_example("a", files=None)], 0.2, 0)


# --- folds of a cross-validation --------------------------------------------------------------------------------------


@LAW
@given(DATASETS, st.integers(1, 8), SEEDS, st.randoms(use_true_random=False))
def test_folds_hold_every_example_once_and_each_target_whole(
    examples: list[TrainingExample], folds: int, seed: int, shuffler: random.Random
) -> None:
    parts = fold_examples(examples, folds, seed)
    assert len(parts) == min(folds, len(targets(examples)))
    assert sorted(example_id for part in parts for example_id in ids(part)) == sorted(ids(examples))
    for part in parts:
        assert ids(part) == [example_id for example_id in ids(examples) if example_id in ids(part)]
    assert sum(len(targets(part)) for part in parts) == len(targets(examples))
    sizes = Counter(example.known_files.target.sha256 for example in examples).values()
    assert max(map(len, parts)) - min(map(len, parts)) <= max(sizes)
    shuffled = list(examples)
    shuffler.shuffle(shuffled)
    assert [set(ids(part)) for part in fold_examples(shuffled, folds, seed)] == [set(ids(part)) for part in parts]


def test_another_seed_gives_other_folds() -> None:
    examples = grouped([1] * 10)
    found = {tuple(frozenset(ids(part)) for part in fold_examples(examples, 3, seed)) for seed in range(20)}
    assert len(found) == 20


def test_folds_are_the_same_for_ever() -> None:
    parts = fold_examples(grouped([1, 2, 1, 3, 1]), 3, 0)
    assert [ids(part) for part in parts] == [["0-0", "2-0"], ["3-0", "3-1", "3-2"], ["1-0", "1-1", "4-0"]]


def test_of_nothing_there_are_no_folds() -> None:
    assert fold_examples([], 3, 0) == []
