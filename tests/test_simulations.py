"""Does training pay where it can, and does it say so where it cannot? On ensembles whose truth is known.

``pytest -rP tests/test_simulations.py`` shows the figures.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import pytest

from known_ensembles import (
    erring,
    held_out_pictures,
    manager_of,
    mean_color_difference,
    middling,
    rng_of,
    shifted,
)
from support import pool_of, save
from tsm_training import (
    BayesianWeightLearner,
    ExampleEvidence,
    FunctionWorker,
    Image,
    InMemoryStore,
    Outcome,
    TrainingManager,
)
from tsm_training.analysis import ScoreTable, judge
from tsm_training.ensemble import BlendExample, blend, fit_blend
from tsm_training.learning import FittedBlend
from tsm_training.weights import Snapshot

pytestmark = pytest.mark.slow


def note(words: str, **figures: float) -> None:
    """Write figures where ``pytest -rP`` shows them."""
    sys.stdout.write(f"{words}: {', '.join(f'{name} {figure:.3f}' for name, figure in figures.items())}\n")


def validation_ids(manager: TrainingManager) -> tuple[str, ...]:
    return manager.data_manager.get_all_sessions()[-1].validation_ids


def differences(
    manager: TrainingManager, shares: Mapping[str, float] | None = None, group_by: str | None = None
) -> float:
    """Return the mean ΔE00 of held-out pictures: the ensemble's, or those blended by given shares."""
    found = held_out_pictures(manager, validation_ids(manager), group_by)
    if shares is None:
        return mean_color_difference([(answer, truth) for answer, truth, _outputs in found])
    return mean_color_difference([(blend(outputs, shares), truth) for _answer, truth, outputs in found])


def test_where_workers_complement_each_other_the_blend_is_found(tmp_path: Path) -> None:
    """Errors of equal size with independent random signs: averaging cancels much of them."""

    def with_signs(source: Image, rng: np.random.Generator) -> Any:
        return 12 * rng.choice([-1, 1], (*source.shape[:2], 1))

    names = ("a", "b", "c")
    manager = manager_of(tmp_path, [erring(name, with_signs) for name in names], lambda source: source, 30)
    manager.train(epochs=20, validation_split=0.4, verbose=False)
    trained = differences(manager)
    single = min(differences(manager, {name: float(name == best) for name in names}) for best in names)
    fifths = [(i, j, 5 - i - j) for i in range(6) for j in range(6 - i)]
    best = min(differences(manager, dict(zip(names, np.array(t) / 5, strict=True))) for t in [*fifths, (5 / 3,) * 3])
    note("errors with independent signs, mean dE", trained=trained, best_worker=single, best_blend=best)
    assert trained <= 0.8 * single
    assert trained <= 1.05 * best


def test_a_blend_of_two_workers_is_found_again(tmp_path: Path) -> None:
    errors = {"a": (30, 0, -10), "b": (-10, 25, 15), "c": (20, -30, 30), "d": (-25, -10, -30)}
    workers = [erring(name, lambda _source, _rng, error=error: np.array(error)) for name, error in errors.items()]

    def truth(source: Image) -> Image:
        return shifted(source, 0.6 * np.array(errors["a"]) + 0.4 * np.array(errors["b"]))

    manager = manager_of(tmp_path, workers, truth, 24)
    manager.train(epochs=20, validation_split=1 / 3, verbose=False)
    [session] = manager.data_manager.get_all_sessions()
    assert len(session.training_ids) == 16
    trained, equal = differences(manager), differences(manager, dict.fromkeys(errors, 0.25))
    shares = manager.weight_learner.get_blend_weights()
    note("a 60/40 blend, mean dE and shares", trained=trained, equal_weights=equal, **shares)
    assert trained <= 0.25 * equal
    assert shares == pytest.approx({"a": 0.6, "b": 0.4, "c": 0, "d": 0}, abs=0.07)


@pytest.mark.parametrize("regimes", [2, 1])
def test_groups_pay_where_styles_differ_and_cost_next_to_nothing_where_they_do_not(
    tmp_path: Path, regimes: int
) -> None:
    casts = {"warm": (-15, 0, 15), "cool": (15, 0, -15), "grey": (0, 25, 0)}
    workers = [
        erring(name, lambda _source, rng, cast=each: np.array(cast) + rng.normal(0, 3, 3))
        for name, each in casts.items()
    ]
    numbers = itertools.count()

    def truth(source: Image) -> Image:
        is_winter = next(numbers) % 2 == 1 and regimes == 2
        return shifted(source, np.array(casts["cool" if is_winter else "warm"]) + rng_of(source, "t").normal(0, 3, 3))

    def style(number: int) -> Mapping[str, Any]:
        return {"style": "winter" if number % 2 else "sunset"}

    manager = manager_of(tmp_path, workers, truth, 48, metadata=style)
    results = manager.train(epochs=20, validation_split=0.4, verbose=False, group_by="style")
    grouped, common = differences(manager, group_by="style"), differences(manager)
    note(f"regimes: {regimes}, mean dE", with_groups=grouped, without=common)
    assert grouped <= (0.8 if regimes == 2 else 1.01) * common
    means = {name: cast("float", each["mean"]) for name, each in results["validation"]["contenders"].items()}
    assert (means["trained"] > means["without_groups"] + 0.01) == (regimes == 2)


# --- truth that has nothing to do with any worker -------------------------------------------------------------------

NOISE_RUNS = 100


def noise(rng: np.random.Generator) -> Image:
    return rng.integers(0, 256, (6, 8, 3), np.uint8)


def closeness(output: Image, truth: Image) -> float:
    return 1.0 - float(np.abs(output.astype(np.int16) - truth).mean()) / 255.0


def noisy_example(number: int, rng: np.random.Generator) -> BlendExample:
    """Return an example whose workers differ in what they do (darker, flatter …), and whose truth is noise."""
    base = noise(rng).astype(np.float64)
    outputs = {
        name: shifted((base - 128) * contrast + 128, level).astype(np.uint8)
        for name, contrast, level in (("plain", 1.0, 0), ("flat", 0.3, 0), ("dark", 1.0, -40), ("mild", 0.7, 10))
    }
    truth = noise(rng)
    accuracies = {name: closeness(picture, truth) for name, picture in outputs.items()}
    return BlendExample(str(number), str(number), outputs, truth, accuracies, lambda p, t=truth: closeness(p, t))


def noise_verdict(seed: int) -> str:
    rng = np.random.default_rng(seed)
    examples = [noisy_example(number, rng) for number in range(28)]
    training, held_out = examples[:16], examples[16:]
    learner = BayesianWeightLearner(alpha=1.0)
    learner.observe([ExampleEvidence(e.digest, {w: Outcome(a) for w, a in e.accuracies.items()}) for e in training])
    fit = fit_blend(training)
    assert fit is not None
    blend_fit = FittedBlend(fit.shares, fit.solver, 1.0)
    learner.cell.update(lambda before: Snapshot(attrs.evolve(before.state, fitted=blend_fit)))
    shares = learner.get_blend_weights()
    names = sorted(held_out[0].outputs)
    single = max(names, key=lambda name: sum(e.accuracies[name] for e in training))
    pictures = [blend(example.outputs, shares) for example in held_out]
    table = ScoreTable(
        example_ids=[e.digest for e in held_out],
        groups=[e.group for e in held_out],
        scores={
            "trained": [e.score(p) for e, p in zip(held_out, pictures, strict=True)],
            "equal_weights": [e.blended_score(dict.fromkeys(names, 0.25)) for e in held_out],
            "best_single": [e.blended_score({single: 1.0}) for e in held_out],
            "untouched": [e.score(noise(rng)) for e in held_out],
            "control": [e.score(pictures[number - 1]) for number, e in enumerate(held_out)],
        },
    )
    return judge(table).decision


def test_truth_that_has_nothing_to_do_with_any_worker_is_hardly_ever_shipped() -> None:
    decisions = [noise_verdict(seed) for seed in range(NOISE_RUNS)]
    note(f"of {NOISE_RUNS} runs on noise", shipped=decisions.count("ship"))
    assert decisions.count("ship") <= 0.05 * NOISE_RUNS


def test_a_dataset_of_noise_is_not_shipped(tmp_path: Path) -> None:
    """The same through the front door, where some workers really come nearer to any noise than others."""
    rng = np.random.default_rng(0)
    workers = [
        FunctionWorker("grey", lambda _source, target: np.full_like(target, 128), version="1"),
        FunctionWorker("same", lambda _source, target: target, version="1"),
        FunctionWorker("other", lambda source, _target: source, version="1"),
    ]
    manager = TrainingManager(pool_of(*workers), BayesianWeightLearner(alpha=0.2), storage=InMemoryStore())
    for number in range(40):
        manager.add_training_example(
            save(tmp_path / f"s{number}.png", middling(2 * number)),
            save(tmp_path / f"t{number}.png", middling(2 * number + 1)),
            save(tmp_path / f"g{number}.png", rng.integers(0, 256, (24, 32, 3), np.uint8)),
        )
    verdict = manager.train(epochs=10, validation_split=0.4, verbose=False)["validation"]["verdict"]
    assert verdict["decision"] != "ship"
