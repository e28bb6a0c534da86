"""Fitting a blend: several solvers compared inside the training examples, and a guard against following noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from tsm_training.arguments import is_number
from tsm_training.ensemble.blending import renormalised
from tsm_training.ensemble.problem import MOST_BLENDS, BlendExample, BlendProblem, BlendSolver
from tsm_training.ensemble.solvers import BestSingle, EqualWeights, Greedy, LeastSquares, ProbabilityBest
from tsm_training.errors import BlendSolverError, InvalidArgumentError, TsmTrainingError

__all__ = ["COMPARED_SOLVERS", "FEWEST_GROUPS", "BlendFit", "FixedShares", "fit_blend", "solver_named"]

FEWEST_GROUPS: Final = 3
"""With fewer groups of examples nothing is fitted: there is nothing to compare on."""

_MOST_FOLDS: Final = 4
_MOST_NAME: Final = 200
_MOST_SHARE: Final = 1e300
"""Their sum has to be finite too."""
_NOISE: Final = 1.3
"""A blend must beat the simple answers by so many standard errors: with less, it wins by luck more than once in ten."""

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
    """What fitting a blend found."""

    shares: Mapping[str, float]
    """Per worker id, at least 0, sum 1."""
    solver: str
    """The name of the solver that was chosen."""
    compared: Mapping[str, float]
    """Mean similarity of each solver's blended pictures on examples that it had not seen; empty where one was set."""
    metric_calls: int
    """How many blended previews were judged."""


def solver_named(choice: str | BlendSolver) -> BlendSolver | None:
    """Return the solver that a setting names, or None for ``"auto"``: compare them all.

    Raises:
        InvalidArgumentError: no solver has that name, or the object is none or has a name that cannot be stored.
    """
    if isinstance(choice, BlendSolver) and not isinstance(choice, type):
        _check_name(choice.name)
        return choice
    if isinstance(choice, str) and choice in {"auto", *COMPARED_SOLVERS}:
        return COMPARED_SOLVERS.get(choice)
    names = ", ".join(repr(name) for name in ("auto", *COMPARED_SOLVERS))
    raise InvalidArgumentError("blend_solver", choice, f"one of {names}, or an object with name and solve(problem)")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= _MOST_NAME or not name.isprintable():
        # It is stored with the shares, and written into weights files.
        raise InvalidArgumentError("name of blend_solver", name, f"1 to {_MOST_NAME} printable characters")


def fit_blend(
    examples: Sequence[BlendExample], solver: BlendSolver | None = None, simple: Sequence[BlendSolver] = ()
) -> BlendFit | None:
    """Return the shares with which the workers' pictures are to be blended, or None where too little is known.

    Unless a solver is given, each of ours is fitted on three quarters of the groups and judged on the fourth, four
    times. A blend is chosen only where it beats the better of the simple answers (best single worker, equal weights) by
    more than noise; otherwise that one is.

    Per example at most ``MOST_BLENDS`` metric calls for each of the two searching solvers and each of five fits, and
    one for each judgement of every solver: in all no more than 150, and typically about 40.

    Args:
        examples: Each content once.
        solver: Used without comparison.
        simple: More answers that a blend has to beat.

    Raises:
        BlendSolverError: a solver gave something that is no shares, or raised.
    """
    groups = sorted({example.group for example in examples})
    problem = _problem(examples)
    if len(groups) < FEWEST_GROUPS or not problem.worker_ids:
        return None
    before = _calls(examples)
    compared: dict[str, list[float]] = {}
    if solver is None:
        simple = (*_SIMPLE, *simple)
        compared = {each.name: _held_out_scores(each, problem, groups) for each in (*simple, *_BLENDS)}
        chosen = _chosen(compared, [each.name for each in simple], [each.group for each in examples])
        solver = next(each for each in (*simple, *_BLENDS) if each.name == chosen)
    shares = _solved(solver, problem)
    means = {name: math.fsum(scores) / len(scores) for name, scores in compared.items()}
    return BlendFit(shares, solver.name, means, _calls(examples) - before)


def _problem(examples: Sequence[BlendExample]) -> BlendProblem:
    """Return the problem of all examples; workers that mostly fail have no share in it."""
    counts: dict[str, int] = {}
    for example in examples:
        for worker_id in example.outputs:
            counts[worker_id] = counts.get(worker_id, 0) + 1
    able = sorted(worker_id for worker_id, count in counts.items() if 2 * count > len(examples))
    return BlendProblem(tuple(examples), tuple(able), MOST_BLENDS)


def _calls(examples: Sequence[BlendExample]) -> int:
    return sum(example.metric_calls for example in examples)


def _held_out_scores(solver: BlendSolver, problem: BlendProblem, groups: Sequence[str]) -> list[float]:
    """Return what the solver's blends score on each example when it was not among those it was fitted on."""
    count = min(_MOST_FOLDS, len(groups))
    fold_of = {group: number % count for number, group in enumerate(groups)}
    scores = dict.fromkeys(problem.examples, 0.0)
    for fold in range(count):
        known = [example for example in problem.examples if fold_of[example.group] != fold]
        shares = _solved(solver, problem.among(known))
        for example in problem.examples:
            if fold_of[example.group] == fold:
                scores[example] = example.blended_score(shares)
    return list(scores.values())


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
        if (number := _as_share(share)) is None:
            raise BlendSolverError(solver.name, f"gave {worker_id!r} the share {share!r}; at least 0 is expected")
        shares[worker_id] = number
    if not any(shares.values()):
        raise BlendSolverError(solver.name, "gave nobody a share")
    return renormalised(shares, problem.worker_ids)


def _as_share(value: object) -> float | None:
    try:
        number = float(value) if is_number(value) else math.nan
    except OverflowError:
        return None
    return number if 0.0 <= number <= _MOST_SHARE else None


def _chosen(compared: Mapping[str, Sequence[float]], simple: Sequence[str], groups: Sequence[str]) -> str:
    """Return the name of the best simple solver, or of a blend that is better than it beyond noise."""
    means = {name: math.fsum(scores) / len(scores) for name, scores in compared.items()}
    fallback = max(simple, key=lambda name: means[name])
    best = max(compared, key=lambda name: means[name])
    if best in simple:
        return fallback
    gains = _group_means([a - b for a, b in zip(compared[best], compared[fallback], strict=True)], groups)
    gain = math.fsum(gains) / len(gains)
    spread = math.fsum((value - gain) ** 2 for value in gains) / (len(gains) - 1)
    return best if gain > _NOISE * math.sqrt(spread / len(gains)) else fallback


def _group_means(values: Sequence[float], groups: Sequence[str]) -> list[float]:
    members: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        members.setdefault(group, []).append(value)
    return [math.fsum(each) / len(each) for _group, each in sorted(members.items())]
