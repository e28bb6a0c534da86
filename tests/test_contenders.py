"""Everything that the trained ensemble competes with, judged on the same pixels, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import HostPool, brightening, manager_with, picture, pool_of, save_triple

from tsm_training import (
    BayesianWeightLearner,
    ExampleEvidence,
    Image,
    Outcome,
    TrainingEngine,
    TrainingManager,
)
from tsm_training.engine import ValidationResults
from tsm_training.engine.contenders import Contenders
from tsm_training.errors import InvalidArgumentError
from tsm_training.evidence import FittedBlend, Group
from tsm_training.weights import with_fits


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


LEVELS = {"above": 50, "below": 0, "far": -60}


def manager_of(folder: Path, examples: int = 8, **settings: Any) -> TrainingManager:
    """Return a manager whose best single worker is ``below``, and whose best blend is one of two workers."""
    pool = settings.pop("pool", None) or pool_of(*(brightening(name, levels) for name, levels in LEVELS.items()))
    engine = TrainingEngine.using(settings.pop("metric", closeness))
    learner = settings.pop("learner", None) or BayesianWeightLearner(alpha=0.5)
    return manager_with(folder, examples, pool=pool, learner=learner, engine_factory=engine, **settings)


def styled(folder: Path, styles: Sequence[tuple[Any, int]], **settings: Any) -> TrainingManager:
    """Return a manager with an example for each style, whose truth is so many levels up."""
    manager = manager_of(folder, 0, **settings)
    manager.add_training_examples(
        [
            (*save_triple(folder, number, levels=levels), {} if style is None else {"style": style})
            for number, (style, levels) in enumerate(styles)
        ]
    )
    return manager


def scores_of(results: ValidationResults) -> list[dict[str, float]]:
    return [each["scores"] for each in results["per_example"]]


# --- what was in use before -----------------------------------------------------------------------------------------


def known(**accuracies: float) -> list[ExampleEvidence]:
    """Return what workers did on a few examples, again and again the same."""
    return [
        ExampleEvidence(f"{number}", {name: Outcome(accuracy) for name, accuracy in accuracies.items()})
        for number in range(4)
    ]


def grouped_learner(group_by: str | None, **favourites: str) -> BayesianWeightLearner:
    """Return a learner that has a blend for all requests, and for each group one that is all its favourite's."""
    learner = BayesianWeightLearner(alpha=1.0)
    learner.observe(known(a=0.5, b=0.5))
    members = tuple("0123")
    groups = {
        label: Group(members, fitted=FittedBlend({favourite: 1.0}, "test", 1.0, members))
        for label, favourite in favourites.items()
    }
    fitted = FittedBlend({"a": 0.5, "b": 0.5}, "test", 1.0, members)
    learner.cell.update(lambda state: with_fits(state, fitted, group_by, groups))
    return learner


def test_what_was_in_use_before_answers_by_its_own_groups() -> None:
    before = grouped_learner("style", warm="a", cool="b")
    now = grouped_learner("season", warm="b")
    contenders = Contenders(now, ("a", "b"), before)
    shares = contenders.shares({"style": "warm", "season": "warm"})
    assert shares["previous"]["a"] > 0.5 > shares["trained"]["a"]
    shares = contenders.shares({"style": "cool"})
    assert shares["previous"]["b"] > 0.5 == shares["trained"]["b"]


def test_what_was_in_use_before_keeps_its_groups_where_the_new_one_has_none() -> None:
    before, now = grouped_learner("style", warm="a"), grouped_learner(None)
    shares = Contenders(now, ("a", "b"), before).shares({"style": "warm"})
    assert shares["previous"]["a"] > 0.5 == shares["trained"]["a"]
    assert "without_groups" not in shares


def test_the_ensemble_in_use_is_judged_as_it_was_before(tmp_path: Path) -> None:
    manager = styled(tmp_path, [("low", 0), ("high", 50)] * 8)
    first = manager.train(verbose=False, epochs=4, validation_split=0.4, group_by="style")["validation"]["contenders"]
    again = manager.train(verbose=False, epochs=4, validation_split=0.4)["validation"]["contenders"]
    assert first["trained"]["mean"] == again["previous"]["mean"]
    assert again["trained"]["mean"] < again["previous"]["mean"]  # type: ignore[operator]


# --- whole pictures -------------------------------------------------------------------------------------------------


def test_an_example_on_which_a_foreign_pool_breaks_down_the_second_time_has_no_whole_pictures(tmp_path: Path) -> None:
    class Moody(HostPool):
        def execute_parallel(self, data: dict[str, Image]) -> Any:
            results = super().execute_parallel(data)
            if len(self.requests) == 4:
                raise OSError("out of memory")
            return results

    pool = Moody({"same": lambda _source, target: target, "flat": lambda _s, target: np.full_like(target, 128)})
    results = manager_of(tmp_path, 3, pool=pool).validate(full=True)
    assert [bool(scores) for scores in scores_of(results)] == [False, True, True]
    assert (results["num_examples"], results["ensemble_examples"]) == (3, 2)


# --- answering one group --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3)], ids=repr)
def test_equal_numbers_are_one_group(tmp_path: Path, value: Any) -> None:
    manager = styled(tmp_path, [(3, 50), (4, 0)] * 4)
    manager.train(verbose=False, epochs=5, validation_split=0.0, group_by="style")
    request = picture(100), picture(101)
    common = manager.predict(*request).blend_weights["above"]
    assert manager.predict(*request, group=value).blend_weights["above"] > common + 0.1


@pytest.mark.parametrize(
    "value", [[3], {"a": 1}, b"warm", float("nan"), float("inf"), np.float64("nan"), 10**400, object()]
)
def test_a_group_is_text_a_number_or_a_truth_value(tmp_path: Path, value: Any) -> None:
    manager = styled(tmp_path, [("warm", 50), ("cool", 0)])
    manager.train(verbose=False, validation_split=0.0, group_by="style")
    with pytest.raises(InvalidArgumentError, match="group must be text, a finite number, True or False"):
        manager.predict(picture(0), picture(1), group=value)
