"""The learning rule: pure functions from one learned state to the next, and what a state says about a group.

What evidence adds up to, and what the sums mean, stands in `tsm_training.core.posterior`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import attrs

from tsm_training.core import ExampleEvidence, Exposure, SufficientStatistics, Totals, exposed, target_totals
from tsm_training.learning.state import BlendFits, ExampleRow, FittedBlend, Group, LearnedState, TargetSums, ungrouped

# --- from one state to the next -------------------------------------------------------------------------------------


def with_workers(state: LearnedState, worker_ids: Iterable[str], prior_weight: float) -> LearnedState:
    """Return a state that knows these workers; those it knows already stay as they are."""
    new = {w: prior_weight for w in worker_ids if w not in state.priors}
    return attrs.evolve(state, priors={**state.priors, **new}) if new else state


def absorb(
    state: LearnedState, evidence: Iterable[ExampleEvidence], alpha: float, prior_weight: float, passes: int = 1
) -> LearnedState:
    """Return the state after `passes` passes over a batch of evidence.

    Scores and confidences of an example that was absorbed before are replaced by the newer ones; what was absorbed of
    it stays absorbed. Evidence that names one example several times absorbs it several times.

    Args:
        state: It holds the rows of these examples, as far as there are any.
        evidence: Any number of examples.
        alpha: The share of the remaining evidence that one pass absorbs, in (0, 1].
        prior_weight: Of workers that are new.
        passes: At least 0.
    """
    changes: dict[str, ExampleRow | None] = {}
    seen: set[str] = set()
    for item in evidence:
        old = changes.get(item.digest) or state.rows.get(item.digest) or ExampleRow({}, item.target)
        changes[item.digest] = ExampleRow(exposed(old.outcomes, item.outcomes, alpha, passes), item.target, old.group)
        seen |= item.outcomes.keys()
    return _with_rows(with_workers(state, sorted(seen), prior_weight), changes)


def _with_rows(state: LearnedState, changes: Mapping[str, ExampleRow | None]) -> LearnedState:
    """Return the state with other rows, None for those that go: the one place where totals change."""
    rows, num_examples, exposure = dict(state.rows), state.num_examples, state.exposure
    sums = _lists(state.totals)
    of_groups: dict[str, dict[str, list[int]]] = {}
    sizes = {label: group.num_examples for label, group in state.groups.items()}
    new_rows = {digest: row for digest, row in changes.items() if row is not None}
    steps = [*((rows[digest], -1) for digest in changes if digest in rows), *((row, 1) for row in new_rows.values())]
    touched = {row.target for row, _sign in steps}
    for label in {row.group for row, _sign in steps} | {g for t in touched for g in state.targets.get(t, {})}:
        if label is not None:
            of_groups[label] = _lists(state.groups.get(label, Group()).totals)
    targets = dict(state.targets)
    for target in touched:
        own = [(row, sign) for row, sign in steps if row.target == target]
        targets[target] = _with_parts(targets.get(target, {}), own)
        for known, sign in ((state.targets.get(target, {}), -1), (targets[target], 1)):
            _add(sums, _squared(ungrouped(known)[None]), sign)
            for label, workers in known.items():
                if label is not None:
                    _add(of_groups[label], _squared(workers), sign)
        if not targets[target]:
            del targets[target]
    for row, sign in steps:
        num_examples += sign
        exposure += sign * row.exposure
        _add(sums, row.totals, sign)
        if row.group is not None:
            sizes[row.group] = sizes.get(row.group, 0) + sign
            _add(of_groups[row.group], row.totals, sign)
    groups = {
        label: attrs.evolve(state.groups.get(label, Group()), num_examples=sizes.get(label, 0), totals=_totals(numbers))
        for label, numbers in of_groups.items()
    }
    return attrs.evolve(
        state,
        totals=_totals(sums),
        num_examples=num_examples,
        exposure=exposure,
        groups=_without_blank({**state.groups, **groups}),
        rows={digest: row for digest, row in rows.items() if digest not in changes} | new_rows,
        targets=targets,
    )


def _with_parts(sums: TargetSums, steps: Iterable[tuple[ExampleRow, int]]) -> TargetSums:
    """Return the sums of a target with examples more (sign 1) or less (−1)."""
    new = {label: dict(workers) for label, workers in sums.items()}
    for row, sign in steps:
        workers = new.setdefault(row.group, {})
        for worker_id, (n, a) in row.parts.items():
            known = workers.get(worker_id, (0, 0))
            workers[worker_id] = known[0] + sign * n, known[1] + sign * a
    kept = {label: {w: pair for w, pair in workers.items() if any(pair)} for label, workers in new.items()}
    return {label: workers for label, workers in kept.items() if workers}


def _squared(workers: Mapping[str, tuple[int, int]]) -> dict[str, Totals]:
    return {worker_id: target_totals(*pair) for worker_id, pair in workers.items()}


def _lists(totals: Mapping[str, Totals]) -> dict[str, list[int]]:
    return {worker_id: list(total) for worker_id, total in totals.items()}


def _add(sums: dict[str, list[int]], totals: Mapping[str, Totals], sign: int) -> None:
    for worker_id, total in totals.items():
        known = sums.setdefault(worker_id, [0] * len(total))
        for place, number in enumerate(total):
            known[place] += sign * number


def _totals(sums: Mapping[str, list[int]]) -> dict[str, Totals]:
    return {worker_id: Totals(*numbers) for worker_id, numbers in sums.items() if any(numbers)}


def _without_blank(groups: Mapping[str, Group]) -> dict[str, Group]:
    return {label: group for label, group in sorted(groups.items()) if group != Group()}


def with_blends(state: LearnedState, fits: BlendFits) -> LearnedState:
    """Return the state with blends that were fitted anew, and with examples in the groups that they now belong to.

    The state must hold the rows of the examples that are labelled; where the key of the groups changes, all rows.
    """
    if fits.group_by != state.group_by:
        rows = {digest: attrs.evolve(row, group=None) for digest, row in state.rows.items()}
        targets = {target: ungrouped(sums) for target, sums in state.targets.items()}
        state = attrs.evolve(state, group_by=fits.group_by, groups={}, rows=rows, targets=targets)
    labelled = {
        digest: attrs.evolve(state.rows[digest], group=label)
        for digest, label in fits.labels.items()
        if digest in state.rows and state.rows[digest].group != label
    }
    state = _with_rows(state, labelled)
    follow = functools.partial(attrs.evolve, absorbed=state.absorbed_share)
    groups = {
        label: attrs.evolve(group, fitted=follow(blend) if (blend := fits.groups.get(label)) is not None else None)
        if label in fits.groups
        else group
        for label, group in state.groups.items()
    }
    fitted = state.fitted if fits.fitted is None else follow(fits.fitted)
    return attrs.evolve(state, fitted=fitted, groups=groups, group_by=state.group_by if groups else None)


def refitted(
    state: LearnedState, evidence: Iterable[ExampleEvidence], fitted: Iterable[str], unfitted: Iterable[str]
) -> LearnedState:
    """Return the state in which workers that were fitted anew have their new outcomes on the absorbed examples.

    What a worker did with an earlier fit no longer counts there. Its outcome is absorbed as far as the least absorbed
    one of the other workers on that example, so that all have evidence on the same examples.

    Args:
        state: What was learned, with all rows.
        evidence: The new outcomes, per example; those of other workers are passed over.
        fitted: Ids of the workers that were fitted.
        unfitted: Ids of workers that are fitted no longer: their outcomes go.
    """
    fitted, gone = frozenset(fitted), frozenset(unfitted)
    new = {
        item.digest: {worker_id: o for worker_id, o in item.outcomes.items() if worker_id in fitted}
        for item in evidence
    }
    changes: dict[str, ExampleRow | None] = {}
    for digest, row in state.rows.items():
        kept = {w: o for w, o in row.outcomes.items() if w not in gone and w not in new.get(digest, {})}
        peers = [o.remaining for w, o in kept.items() if w not in fitted] or [
            o.remaining for o in row.outcomes.values()
        ]
        outcomes = kept | {
            worker_id: Exposure(outcome.accuracy, outcome.confidence, max(peers))
            for worker_id, outcome in new.get(digest, {}).items()
        }
        if outcomes != row.outcomes:
            changes[digest] = attrs.evolve(row, outcomes=outcomes) if outcomes else None
    return _with_rows(state, changes)


def forget(state: LearnedState, digests: Iterable[str]) -> LearnedState:
    """Return the state without what was learned from these examples; it holds their rows, as far as there are any.

    The evidence is exactly as if they had never been seen. A blend that was fitted on one of them cannot be cleaned of
    it, so it goes as a whole: until the next training, the posterior alone decides there.
    """
    gone = frozenset(digests)
    state = _with_rows(state, dict.fromkeys(gone & state.rows.keys()))
    groups = {
        label: attrs.evolve(group, fitted=None if _holds(group.fitted, gone) else group.fitted)
        for label, group in state.groups.items()
    }
    groups = _without_blank(groups)
    fitted = None if _holds(state.fitted, gone) else state.fitted
    return attrs.evolve(state, fitted=fitted, groups=groups, group_by=state.group_by if groups else None)


def _holds(fitted: FittedBlend | None, digests: frozenset[str]) -> bool:
    return fitted is not None and not digests.isdisjoint(fitted.digests)


# --- what a state means ---------------------------------------------------------------------------------------------


def shrunk_to(sums: SufficientStatistics, group: SufficientStatistics | None, strength: float) -> SufficientStatistics:
    """Return a group's sums, shrunk to those of all examples, which count as at most `strength` examples.

    This is a power prior (Ibrahim & Chen, "Power prior distributions for regression models", 2000) whose exponent
    leaves that much evidence. It is applied to all that is known of them, their prior included, so that their weight
    stays what it is: a group without evidence of its own has the weights of all, and one with much has its own.

    Args:
        sums: Of all examples, those of the group among them.
        group: Of the group's own examples; None without any.
        strength: As how many examples all of them count at most; the learner's prior strength, above 0.
    """
    own = group or SufficientStatistics(sums.prior)
    kept = min(sums.evidence, strength)
    part = (kept + strength) / (sums.evidence + strength)
    fewer = kept / sums.evidence if sums.evidence else 0.0
    return SufficientStatistics(
        prior=sums.prior,
        evidence=kept + own.evidence,
        advantage=part * sums.advantage + own.advantage,
        squared_advantage=part * sums.squared_advantage + own.squared_advantage,
        accuracy_sum=own.accuracy_sum,
        valid_count=own.valid_count,
        update_count=own.update_count,
        failed_evidence=part * sums.failed_evidence + own.failed_evidence,
        target_evidence=fewer**2 * sums.target_evidence + own.target_evidence,
        target_product=fewer * part * sums.target_product + own.target_product,
        target_advantage=part**2 * sums.target_advantage + own.target_advantage,
    )


def in_group(state: LearnedState, group: str, strength: float) -> LearnedState:
    """Return what a state says about requests of one group, as a state of its own without evidence per example.

    Evidence and fitted blend of the group are shrunk to those of all examples: see `shrunk_to`; of the shares, those
    fitted on the group count ``n / (n + strength)``, with n its mean evidence. The group's safe shares count in full:
    they are a choice, and halfway between two good answers may be a worse one. For a group without any evidence, all
    is as it is for all examples.

    Args:
        state: What was learned, by groups.
        group: The value under the metadata key.
        strength: As how many examples of the group all the others count at most: the learner's prior strength, above 0.
    """
    own = state.statistics_by_group.get(group)
    if not own:
        return LearnedState(state.priors, state.totals, fitted=state.fitted, imported=state.imported)
    totals = {w: Totals.of(shrunk_to(sums, own.get(w), strength)) for w, sums in state.statistics.items()}
    fitted = state.groups[group].fitted
    if state.fitted is None or fitted is None:
        return LearnedState(state.priors, totals, fitted=state.fitted)
    evidence = math.fsum(sums.evidence for sums in own.values()) / len(own)
    part = evidence / (evidence + strength)
    ids = sorted({*state.fitted.shares, *fitted.shares})
    shares = {w: (1.0 - part) * state.fitted.shares.get(w, 0.0) + part * fitted.shares.get(w, 0.0) for w in ids}
    safe = fitted.safe or state.fitted.safe
    blend = attrs.evolve(state.fitted, shares=shares, solver=fitted.solver, safe=safe)
    return LearnedState(state.priors, totals, fitted=blend)


def mixed(known: Mapping[str, float], other: Mapping[str, float], part: float) -> dict[str, float]:
    """Return shares that follow `other` to a part and `known` for the rest.

    Of the other shares those of the workers in `known` count, scaled to sum 1; where there are none, nothing does.

    Args:
        known: Per worker id, at least 0, sum 1.
        other: Per worker id, at least 0.
        part: In [0, 1].
    """
    total = math.fsum(other.get(worker_id, 0.0) for worker_id in known)
    if total <= 0.0 or part <= 0.0:
        return dict(known)
    blended = {w: (1.0 - part) * share + part * other.get(w, 0.0) / total for w, share in known.items()}
    whole = math.fsum(blended.values())
    return {worker_id: share / whole for worker_id, share in blended.items()}
