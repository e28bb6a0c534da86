"""Simulated scores with planted truths: do the answers of `tsm_training.analysis` hold what they promise?

    python -m tests.simulations

writes the figures that ``docs/explanation/verdict.md`` shows. The tests of calibration ask for the same figures. All
random numbers come from fixed seeds.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import attrs
import numpy as np
import numpy.typing as npt

from tsm_training import BayesianWeightLearner, ExampleEvidence, Outcome
from tsm_training.analysis import Comparison, Posterior, ScoreTable, Verdict, compare, judge, probability_best

Floats = npt.NDArray[np.float64]

NUMBERS: Final = (8, 12, 20, 60)
"""Numbers of targets."""

_WORKERS: Final = ("a", "b", "c", "d")


# --- workers --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Kind:
    """What kind of scores workers get. Every difference between the means of two workers is planted exactly."""

    common: tuple[float, float]
    """Between these, uniformly, lies what a target is worth to everybody."""
    spread: float
    """Standard deviation of what workers are worth, planted."""
    farthest: float
    """No worker is worth more, or less, than this."""
    taste: float
    """Up to so much, uniformly, a worker likes or dislikes a target; the same for all examples with it."""
    concentration: tuple[float, float]
    """Scores have a beta distribution around all of that; each worker has one concentration between these."""


PHOTOGRAPHS: Final = Kind((0.6, 0.8), 0.02, 0.05, 0.04, (30.0, 600.0))
"""Scores spread as those of real workers on real photographs."""

SPECTRUM: Final[Mapping[str, Kind]] = {
    "like photographs": PHOTOGRAPHS,
    "nearly perfect": Kind((0.91, 0.94), 0.02, 0.03, 0.015, (20.0, 100.0)),
}
"""Kinds of scores; those of the second crowd below 1, with long tails downwards."""


def _table(rng: np.random.Generator, kind: Kind, n: int, worth: Floats) -> ScoreTable:
    """Return scores on n targets with one or two examples each."""
    sizes = rng.integers(1, 3, n)
    common = rng.uniform(*kind.common, n)
    taste = rng.uniform(-kind.taste, kind.taste, (len(worth), n))
    least, greatest = np.log(kind.concentration)
    concentration = np.exp(rng.uniform(least, greatest, (len(worth), 1)))
    means = np.repeat(common + taste + worth[:, None], sizes, axis=1)
    scores = rng.beta(means * concentration, (1.0 - means) * concentration)
    groups = [f"target {number}" for number in np.repeat(np.arange(n), sizes)]
    ids = [f"example {number}" for number in range(len(groups))]
    return ScoreTable(ids, groups, dict(zip(_WORKERS, scores.tolist(), strict=True)))


@attrs.frozen
class Answers:
    """What was said of workers in many simulated datasets, beside the truth."""

    covered: tuple[bool, ...]
    """For each pair of neighbours, whether the interval holds the planted difference."""
    better: tuple[tuple[float, bool], ...]
    """For each of these pairs, both ways round, the probability that the first is better and whether it is."""
    best: tuple[tuple[float, bool], ...]
    """For each worker, the probability that it is the best and whether it is."""

    @property
    def coverage(self) -> float:
        return float(np.mean(self.covered))

    @staticmethod
    def right(said: Sequence[tuple[float, bool]], low: float, high: float) -> tuple[float, int]:
        """Return how often something was so among those said with a probability in a range, and their number."""
        truths = [truth for probability, truth in said if low <= probability <= high]
        return float(np.mean(truths)), len(truths)


def answers(kind: Kind, n: int, repetitions: int = 300, seed: int = 0) -> Answers:
    """Ask who is better, and who is the best, in datasets of n targets each."""
    rng = np.random.default_rng([seed, n])
    covered, better, best = [], [], []
    for _ in range(repetitions):
        worth = np.clip(rng.normal(0.0, kind.spread, len(_WORKERS)), -kind.farthest, kind.farthest)
        planted = dict(zip(_WORKERS, worth.tolist(), strict=True))
        table = _table(rng, kind, n, worth)
        for a, b in itertools.pairwise(_WORKERS):
            comparison = compare(table, a, b)
            covered.append(_covers(comparison, planted[a] - planted[b]))
            better.append((comparison.probability_better or 0.0, planted[a] > planted[b]))
            better.append((comparison.probability_worse or 0.0, planted[a] < planted[b]))
        for name, probability in probability_best(table).probabilities.items():
            best.append((probability or 0.0, planted[name] == max(planted.values())))
    return Answers(tuple(covered), tuple(better), tuple(best))


def _covers(comparison: Comparison, planted: float) -> bool:
    low, high = comparison.interval or (1.0, -1.0)
    return low <= planted <= high


# --- differences ----------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, n: int) -> Floats:
    return rng.normal(0.0, 1.0, n)


def exponential_losses(rng: np.random.Generator, n: int) -> Floats:
    return 1.0 - rng.exponential(1.0, n)


def lognormal_losses(rng: np.random.Generator, n: int) -> Floats:
    """With sigma 0.75: of 100 targets, one costs five times the standard deviation."""
    return (math.exp(0.75**2 / 2) - rng.lognormal(0.0, 0.75, n)) / 1.148


def very_skewed_losses(rng: np.random.Generator, n: int) -> Floats:
    """Lognormal with sigma 1."""
    return (math.exp(0.5) - rng.lognormal(0.0, 1.0, n)) / 2.161


def rare_losses(rng: np.random.Generator, n: int) -> Floats:
    """Next to nothing on four targets of five, and a great loss on the fifth."""
    return (np.where(rng.random(n) < 0.2, -rng.exponential(0.1, n), rng.normal(0.0, 0.003, n)) + 0.02) / 0.06


def rarer_losses(rng: np.random.Generator, n: int) -> Floats:
    """A little better on nine targets of ten, and a loss of ten times as much on the tenth."""
    return (np.where(rng.random(n) < 0.1, -rng.exponential(0.1, n), rng.normal(0.0, 0.01, n)) + 0.01) / 0.0446


SHAPES: Final[Mapping[str, Callable[[np.random.Generator, int], Floats]]] = {
    "normal": normal,
    "exponential losses": exponential_losses,
    "lognormal losses": lognormal_losses,
    "lognormal losses, sigma 1": very_skewed_losses,
    "a great loss on one target of five": rare_losses,
    "a great loss on one target of ten": rarer_losses,
}
"""Differences with mean 0 and standard deviation 1."""


def coverage_where(shape: str, n: int, spread: float, repeats: int = 1, repetitions: int = 4000) -> float:
    """Return how often the interval of a comparison holds the truth.

    Each of n targets has as many examples as `repeats`, which share half of the variance of their differences.
    """
    rng = np.random.default_rng([n, repeats])
    draw, covered = SHAPES[shape], 0
    for _ in range(repetitions):
        own = draw(rng, n * repeats).reshape(n, repeats).mean(axis=1)
        low, high = Posterior.of((spread * (draw(rng, n) + own) / math.sqrt(2.0)).tolist()).interval()
        covered += low <= 0.0 <= high
    return covered / repetitions


# --- weights --------------------------------------------------------------------------------------------------------

_WEIGHED: Final = 6
"""Number of workers."""


def _accuracies(
    rng: np.random.Generator, worth: Floats, shape: str, spread: float, targets: npt.NDArray[np.intp]
) -> Floats:
    """Return accuracies (workers × examples) on examples of these targets, each with half of the variance of errors."""
    number = int(targets.max()) + 1
    common, draw = rng.uniform(0.6, 0.75, number)[targets], SHAPES[shape]
    of_targets = draw(rng, len(worth) * number).reshape(len(worth), number)[:, targets]
    of_examples = draw(rng, len(worth) * len(targets)).reshape(len(worth), len(targets))
    return np.clip(common + worth[:, None] + spread * (of_targets + of_examples) / math.sqrt(2.0), 0.0, 1.0)


def weight_coverage(
    shape: str, n: int, spread: float, repeats: tuple[int, int] = (1, 1), *, alpha: float = 1.0
) -> float:
    """Return how often intervals of weights hold the weights at full absorption over infinitely many targets.

    Args:
        shape: Of errors.
        n: Number of targets.
        spread: Of errors, and of what workers are worth.
        repeats: How many examples a target has, at least and at most.
        alpha: The share that one epoch absorbs.
    """
    rng = np.random.default_rng([n, *repeats])
    covered = []
    for _ in range(60):
        worth = rng.normal(0.0, spread, _WEIGHED)
        many = _accuracies(rng, worth, shape, spread, np.arange(3000))
        truth = (many / many.mean(axis=0)).mean(axis=1)
        targets = np.repeat(np.arange(n), rng.integers(repeats[0], repeats[1] + 1, n))
        learner = BayesianWeightLearner(alpha=alpha)
        learner.observe(
            ExampleEvidence(str(i), {str(w): Outcome(a) for w, a in enumerate(column)}, target=str(target))
            for i, (target, column) in enumerate(
                zip(targets, _accuracies(rng, worth, shape, spread, targets).T.tolist(), strict=True)
            )
        )
        for worker_id, known in learner.get_all_statistics().items():
            low, high = known["credible_interval"]
            covered.append(low <= truth[int(worker_id)] <= high)
    return float(np.mean(covered))


# --- a sequence of looks --------------------------------------------------------------------------------------------


def shown(shape: str, looks: Sequence[int], gain: float, spread: float = 0.03, repetitions: int = 2000) -> float:
    """Return how often a gain is shown at one of several looks at growing data."""
    rng = np.random.default_rng(len(looks))
    found = 0
    for _ in range(repetitions):
        differences = (gain + spread * SHAPES[shape](rng, max(looks))).tolist()
        found += any(Posterior.of(differences[:n]).shows(0.0) for n in looks)
    return found / repetitions


def advised(shape: str, gain: float, spread: float = 0.03, repetitions: int = 300) -> Iterator[list[Verdict]]:
    """Follow the advice of verdicts on growing data, from 8 targets to at most 100; yield all verdicts of each try."""
    rng = np.random.default_rng(8)
    for _ in range(repetitions):
        differences = gain + spread * SHAPES[shape](rng, 100)
        verdicts = [_verdict({"trained": np.clip(0.5 + differences[:8], 0.0, 1.0), "equal_weights": np.full(8, 0.5)})]
        while verdicts[-1].more and (n := verdicts[-1].n + verdicts[-1].more) <= len(differences):
            verdicts.append(
                _verdict({"trained": np.clip(0.5 + differences[:n], 0.0, 1.0), "equal_weights": np.full(n, 0.5)})
            )
        yield verdicts


def advice(gain: float, n: int, spread: float = 0.03, repetitions: int = 200) -> tuple[float, float]:
    """Return how many more targets undecided verdicts on n of them ask for, and how many it takes, both on average.

    What takes more than three times as many more counts as that: no more are ever asked for.
    """
    rng = np.random.default_rng(n)
    asked, needed = [], []
    for _ in range(repetitions):
        differences = (gain + spread * rng.normal(0.0, 1.0, 4 * n)).tolist()
        verdict = _verdict({"trained": np.array(differences[:n]) + 0.5, "equal_weights": np.full(n, 0.5)})
        if verdict.more:
            looks = (m - n for m in range(n + 1, 4 * n) if Posterior.of(differences[:m]).shows(0.0))
            asked.append(verdict.more)
            needed.append(next(looks, 3 * n))
    return float(np.mean(asked or [0])), float(np.mean(needed or [0]))


# --- verdicts -------------------------------------------------------------------------------------------------------

_NOISE: Final = 0.02
"""Standard deviation of each baseline's errors: exponential, so that a few pictures are much worse than the others."""


def _errors(rng: np.random.Generator, n: int) -> Floats:
    return _NOISE * (1.0 - rng.exponential(1.0, n))


def _verdict(columns: Mapping[str, Floats]) -> Verdict:
    n = len(columns["trained"])
    names = [str(number) for number in range(n)]
    return judge(ScoreTable(names, names, {name: column.tolist() for name, column in columns.items()}))


def _related(rng: np.random.Generator, n: int, gain: float) -> dict[str, Floats]:
    """Return scores of a trained ensemble that is worth `gain` more than all others but the untouched target."""
    common = rng.uniform(0.5, 0.7, n)
    return {
        "trained": common + gain + _errors(rng, n),
        "previous": common + _errors(rng, n),
        "equal_weights": common + _errors(rng, n),
        "best_single": common + _errors(rng, n),
        "untouched": common - 0.05 + _errors(rng, n),
        "control": np.roll(common, 1) - 0.1 + _errors(rng, n),
    }


def related_verdicts(n: int, standard_errors: float, repetitions: int = 300, seed: int = 0) -> Iterator[Verdict]:
    """Judge ensembles whose gain over what is in use is a multiple of the standard error of that difference."""
    rng = np.random.default_rng([seed, n])
    gain = standard_errors * _NOISE * (2.0 / n) ** 0.5
    return (_verdict(_related(rng, n, gain)) for _ in range(repetitions))


def noise_verdicts(
    n: int,
    *,
    bonus: float = 0.0,
    truth_spread: float = 0.05,
    control: bool = True,
    repetitions: int = 200,
    seed: int = 0,
) -> Iterator[Verdict]:
    """Judge ensembles where the truths have nothing to do with anybody's pictures.

    Each baseline has luck of its own: its pictures look like any truth by more or less. Pictures and truths matter to
    the score, each for itself, so own and control scores are exchangeable. Nothing was learned before.

    Args:
        n: Number of targets.
        bonus: How much more the trained ensemble's pictures look like any truth.
        truth_spread: Standard deviation of what truths are worth. The check of the relation is sharpest without any.
        control: Whether that check can be made.
        repetitions: Number of verdicts.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng([seed, n])

    def verdict() -> Verdict:
        truths, pictures = rng.normal(0.0, truth_spread, n), rng.normal(0.0, 0.03, n)
        names = ("trained", "equal_weights", "best_single", "untouched")
        luck = dict(zip(names, rng.normal(0.0, 0.02, 4), strict=True))
        columns = {name: 0.5 + luck[name] + truths + pictures + rng.normal(0.0, 0.03, n) for name in names}
        columns["trained"] += bonus
        columns["previous"] = columns["equal_weights"]
        if control:
            others = np.roll(truths, 1) + pictures + rng.normal(0.0, 0.03, n)
            columns["control"] = 0.5 + bonus + luck["trained"] + others
        return _verdict(columns)

    return (verdict() for _ in range(repetitions))


def decisions(verdicts: Iterator[Verdict]) -> dict[str, float]:
    """Return how often each decision was taken."""
    counts = Counter(verdict.decision for verdict in verdicts)
    return {name: counts[name] / counts.total() for name in ("ship", "don't ship", "no gain", "collect more")}


def verdict_coverage(n: int, standard_errors: float = 2.0, repetitions: int = 300, seed: int = 0) -> float:
    """Return how often the intervals of a verdict, over all baselines, hold the planted difference."""
    gain = standard_errors * _NOISE * (2.0 / n) ** 0.5
    planted = {"previous": gain, "equal_weights": gain, "best_single": gain, "untouched": gain + 0.05}
    return float(
        np.mean(
            [
                _covers(verdict.comparisons[name], difference)
                for verdict in related_verdicts(n, standard_errors, repetitions, seed)
                for name, difference in planted.items()
            ]
        )
    )


# --- all figures ----------------------------------------------------------------------------------------------------


def _lines() -> Iterator[str]:
    for name, kind in SPECTRUM.items():
        for n in NUMBERS:
            said = answers(kind, n)
            (right, number), (best, times) = said.right(said.better, 0.85, 0.95), said.right(said.best, 0.85, 0.95)
            yield (
                f"{name}, {n} targets: intervals cover {said.coverage:.1%}; right where P(better) is 0.85 to 0.95 "
                f"{right:.1%} of {number}; best where P(best) is 0.85 to 0.95 {best:.1%} of {times}"
            )
    for spread in (0.01, 0.005, 0.0025):
        said = answers(attrs.evolve(PHOTOGRAPHS, spread=spread), 20)
        right, number = said.right(said.better, 0.85, 0.95)
        yield f"workers that differ by {spread}, 20 targets: right {right:.1%} of {number}"
    yield from _coverages()
    for shape in SHAPES:
        often = shown(shape, range(8, 101, 2), 0.0)
        decided = [verdicts[-1].decision for verdicts in advised(shape, 0.0, repetitions=2000)]
        yield (
            f"{shape}, no gain: shipped at some time, looking after every second target {often:.1%}, "
            f"as advised {decided.count('ship') / len(decided):.1%}"
        )
    for gain in (0.005, 0.01, 0.02, 0.03):
        powers = ", ".join(f"{n}: {shown('normal', [n], gain):.1%}" for n in (20, 40, 60, 100))
        yield f"normal, gain {gain}, spread 0.03: shipped at one look {powers}"
        numbers = ", ".join("{}: {:.0f} asked, {:.0f} needed".format(n, *advice(gain, n)) for n in (8, 20, 40))
        yield f"normal, gain {gain}, spread 0.03: more targets {numbers}"
    for n in NUMBERS:
        yield f"verdict, {n} targets: intervals cover {verdict_coverage(n):.1%}"
        for multiple in (0.0, 1.0, 2.0, 3.0, 4.0):
            yield f"verdict, {n} targets, gain of {multiple} standard errors: {_shares(related_verdicts(n, multiple))}"
        for bonus in (0.0, 0.03):
            yield f"noise, {n} targets, bonus {bonus}: {_shares(noise_verdicts(n, bonus=bonus))}"
            even = noise_verdicts(n, bonus=bonus, truth_spread=0.0)
            yield f"noise, {n} targets, bonus {bonus}, truths alike: {_shares(even)}"
            unchecked = noise_verdicts(n, bonus=bonus, control=False)
            yield f"noise, {n} targets, bonus {bonus}, no control: {_shares(unchecked)}"


def _coverages() -> Iterator[str]:
    for shape, spread, n in itertools.product(SHAPES, (0.01, 0.03, 0.06), (8, 20, 100)):
        shares = ", ".join(f"{repeats}: {coverage_where(shape, n, spread, repeats):.1%}" for repeats in (1, 5, 20))
        yield f"{shape}, spread {spread}, {n} targets, intervals cover, by examples of a target: {shares}"
    for shape, spread, n in itertools.product(SHAPES, (0.01, 0.03, 0.06), (8, 20, 60)):
        kinds = {"1": (1, 1), "10": (10, 10), "1 to 20": (1, 20)}
        shares = ", ".join(f"{name}: {weight_coverage(shape, n, spread, each):.1%}" for name, each in kinds.items())
        early = weight_coverage(shape, n, spread, alpha=0.15)
        yield f"{shape}, spread {spread}, {n} targets, weights, by examples of a target {shares}; one epoch {early:.1%}"


def _shares(verdicts: Iterator[Verdict]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in decisions(verdicts).items())


if __name__ == "__main__":
    for line in _lines():
        sys.stdout.write(f"{line}\n")
