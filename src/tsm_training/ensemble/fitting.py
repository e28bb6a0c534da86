"""Fitting a blend: several solvers compared inside the training examples, and a guard against following noise."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from tsm_training.arguments import is_number
from tsm_training.ensemble.blending import renormalised
from tsm_training.ensemble.solvers import (
    BestSingle,
    BlendExample,
    BlendProblem,
    BlendSolver,
    EqualWeights,
    Greedy,
    LeastSquares,
    ProbabilityBest,
)
from tsm_training.errors import BlendSolverError, InvalidArgumentError, TsmTrainingError

FEWEST_GROUPS: Final = 3
"""With fewer groups of examples nothing is fitted: there would be nothing to compare on."""

_MOST_FOLDS: Final = 4
_MOST_NAME: Final = 200
_MOST_SHARE: Final = 1e300
"""Their sum has to be finite too."""
_NOISE: Final = 1.3
"""A blend must beat the simple answers by this many standard errors: with fewer, luck wins more than once in ten."""

_SIMPLE: Final[tuple[BlendSolver, ...]] = (BestSingle(), EqualWeights())
_BLENDS: Final[tuple[BlendSolver, ...]] = (ProbabilityBest(), LeastSquares(), Greedy())

COMPARED_SOLVERS: Final[Mapping[str, BlendSolver]] = {solver.name: solver for solver in (*_SIMPLE, *_BLENDS)}
"""By name: those that are compared where no solver is chosen."""


@attrs.frozen
class FixedShares:
    """Always gives the same shares: an answer that is there already, to be beaten."""

    name: str
    shares: Mapping[str, float]

    def solve(self, problem: BlendProblem, /) -> Mapping[str, float]:
        """Return the shares, of the problem's workers."""
        return renormalised(self.shares, problem.worker_ids)


@attrs.frozen
class BlendFit:
    """The result of fitting a blend."""

    shares: Mapping[str, float]
    """Per worker id, at least 0, sum 1."""
    solver: str
    """The name of the solver that was chosen."""
    compared: Mapping[str, float]
    """Mean similarity of each solver's blended images on targets that it had not seen; empty where one was set."""
    safe: Mapping[str, float]
    """The shares of the best simple answer, for as far as the fit is not followed."""


def solver_named(choice: str | BlendSolver) -> BlendSolver | None:
    """Return the solver that a setting names, or None for ``"auto"``: compare them all.

    Raises:
        InvalidArgumentError: no solver has that name, or the object is none or has a name that cannot be stored.
    """
    if isinstance(choice, BlendSolver) and not isinstance(choice, type):
        name: object = choice.name
        if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME or not name.isprintable():
            # It is stored with the shares, and written into weights files.
            raise InvalidArgumentError("name of blend_solver", name, f"1 to {_MOST_NAME} printable characters")
        return choice
    if isinstance(choice, str) and choice in {"auto", *COMPARED_SOLVERS}:
        return COMPARED_SOLVERS.get(choice)
    names = ", ".join(repr(name) for name in ("auto", *COMPARED_SOLVERS))
    raise InvalidArgumentError("blend_solver", choice, f"one of {names}, or an object with name and solve(problem)")


def fit_blend(
    examples: Sequence[BlendExample],
    solver: BlendSolver | None = None,
    simple: Sequence[BlendSolver] = (),
    safe: Mapping[str, float] | None = None,
) -> BlendFit | None:
    """Return the shares with which the workers' images are to be blended, or None where too little is known.

    Unless a solver is given, each of ours is fitted on three quarters of the targets and judged on the fourth, four
    times. A blend is chosen only where it beats the better of the simple answers (best single worker, equal weights) by
    more than noise; otherwise that one is. All means are over targets, each of which counts alike. Workers that fail on
    half of the examples or more get no share.

    Per example at most ``MOST_BLENDS`` metric calls for each of the two searching solvers and each of five fits, and
    one for each judgement of every solver: in all no more than 150, and typically about 40.

    Args:
        examples: Each content once.
        solver: Used without comparison; only the simple answers are compared, for two metric calls per example.
        simple: More answers that a blend has to beat.
        safe: The safe shares of more examples than these: better ones must beat them by more than noise.

    Raises:
        BlendSolverError: a solver gave something that is no shares, or raised.
    """
    groups = sorted({example.group for example in examples})
    counts = Counter(worker_id for example in examples for worker_id in example.outputs)
    able = sorted(worker_id for worker_id, count in counts.items() if 2 * count > len(examples))
    if len(groups) < FEWEST_GROUPS or not able:
        return None
    problem = BlendProblem(tuple(examples), tuple(able))

    def best(safest: Sequence[BlendSolver], others: Sequence[BlendSolver]) -> tuple[BlendSolver, dict[str, float]]:
        rivals = {each.name: each for each in (*others, *safest)}
        means = {each.name: _held_out_means(each, problem, groups) for each in (*safest, *others)}
        chosen = _chosen(means, [each.name for each in safest])
        return rivals[chosen], {name: _mean(each) for name, each in means.items()}

    safest, _means = best(_SIMPLE, ()) if safe is None else best([FixedShares("safe", safe)], _SIMPLE)
    compared: dict[str, float] = {}
    if solver is None:
        solver, compared = best((*_SIMPLE, *simple), _BLENDS)
    shares = _solved(solver, problem)
    return BlendFit(shares, solver.name, compared, _solved(safest, problem))


def _held_out_means(solver: BlendSolver, problem: BlendProblem, groups: Sequence[str]) -> list[float]:
    """Return each group's mean score of the blends that the solver finds without it, in order of group."""
    count = min(_MOST_FOLDS, len(groups))
    fold_of = {group: number % count for number, group in enumerate(groups)}
    scores: dict[str, list[float]] = {group: [] for group in groups}
    for fold in range(count):
        known = [example for example in problem.examples if fold_of[example.group] != fold]
        shares = _solved(solver, problem.among(known))
        for example in problem.examples:
            if fold_of[example.group] == fold:
                scores[example.group].append(example.blended_score(shares))
    return [_mean(each) for each in scores.values()]


def _solved(solver: BlendSolver, problem: BlendProblem) -> dict[str, float]:
    try:
        found = dict(solver.solve(problem))
    except TsmTrainingError:  # of the metric, say
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        raise BlendSolverError(solver.name, f"raised {type(error).__name__}: {error}") from error
    shares: dict[str, float] = {}
    for worker_id, share in found.items():
        if worker_id not in problem.worker_ids:
            raise BlendSolverError(solver.name, f"gave a share to {worker_id!r}, which is not in the problem")
        number = share if isinstance(share, int) or not is_number(share) else float(share)  # ints may be too large
        if not is_number(number) or not 0.0 <= number <= _MOST_SHARE:  # NaN is neither
            raise BlendSolverError(solver.name, f"gave {worker_id!r} the share {share!r}; at least 0 is expected")
        shares[worker_id] = float(number)
    if not any(shares.values()):
        raise BlendSolverError(solver.name, "gave nobody a share")
    return renormalised(shares, problem.worker_ids)


def _chosen(compared: Mapping[str, Sequence[float]], simple: Sequence[str]) -> str:
    """Return the name of the best simple answer, or of another that is better than it beyond noise.

    Args:
        compared: Per name, one mean per group.
        simple: The names of those that need not be better than noise.
    """
    means = {name: _mean(each) for name, each in compared.items()}
    fallback = max(simple, key=means.__getitem__)
    best = max(compared, key=means.__getitem__)
    if best in simple:
        return fallback
    gains = [a - b for a, b in zip(compared[best], compared[fallback], strict=True)]
    gain = _mean(gains)
    spread = math.fsum((value - gain) ** 2 for value in gains) / (len(gains) - 1)
    return best if gain > _NOISE * math.sqrt(spread / len(gains)) else fallback


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
