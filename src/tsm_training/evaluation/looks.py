"""The looks among the stored examples, found without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from tsm_training.analysis import adjusted_rand_index
from tsm_training.data import TrainingExample
from tsm_training.evaluation.evaluator import Evaluator, by_contents, observation_name
from tsm_training.text import counted, figure_text, percent_text
from tsm_training.workers import Observation, WorkerPool

_NOTHING_TO_LEARN = "nothing could be learned from it"


@attrs.frozen
class FoundLook:
    """Examples that one map of colours explains."""

    members: tuple[str, ...]
    """Example ids, in order of addition; at least two."""
    centre: str
    """The id of the member whose map of colours is nearest to those of the others."""
    agreement: float
    """Which part of what the members do to colours one map explains, in [0, 1] (R²): how alike they are."""
    names: Mapping[str, tuple[str, int]]
    """The commonest value under each metadata key that holds text, and how many members have it."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        names = {key: {"value": value, "count": count} for key, (value, count) in self.names.items()}
        return {"members": list(self.members), "centre": self.centre, "agreement": self.agreement, "names": names}


@attrs.frozen
class FoundLooks:
    """The looks among examples, found without labels."""

    looks: tuple[FoundLook, ...]
    """The greatest first."""
    alone: tuple[str, ...]
    """Ids of examples that are like no other one, in order of addition."""
    agreement: Mapping[str, float]
    """How well the looks agree with each metadata key that holds text, on the examples that have it: the adjusted Rand
    index, 1 for the same division and about 0 for an unrelated one."""
    left_out: Mapping[str, str]
    """Why examples took no part, by id: their pictures cannot be read, for one."""

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "looks": [look.to_dict() for look in self.looks],
            "alone": list(self.alone),
            "agreement": dict(self.agreement),
            "left_out": dict(self.left_out),
        }

    @property
    def facts(self) -> dict[str, str]:
        """What is to be said of all of them, by name."""
        facts = {f"agreement with {key!r}": figure_text(value, 2) for key, value in self.agreement.items()}
        facts |= {"like no other": counted(len(self.alone), "example")} if self.alone else {}
        return facts | ({"left out": counted(len(self.left_out), "example")} if self.left_out else {})

    @property
    def rows(self) -> list[list[str]]:
        """What is to be said of each: its number, members, agreement, name and central example.

        The name is the commonest value under the metadata key that agrees best.
        """
        key = max(self.agreement, key=self.agreement.__getitem__, default="")
        rows = []
        for number, look in enumerate(self.looks, 1):
            value, count = look.names.get(key, ("–", 0))
            name = f"{value} ({count})" if count else value
            rows.append([str(number), str(len(look.members)), percent_text(look.agreement), name, look.centre])
        return rows

    def __str__(self) -> str:
        lines = [f"{counted(len(self.looks), 'look')} found"]
        lines += [f"  {name}: {value}" for name, value in self.facts.items()]
        for number, members, agreement, name, centre in self.rows:
            lines.append(f"  look {number}: {members} examples, {agreement} alike, {name}, such as {centre}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Show the looks as a table in a notebook."""
        from tsm_training.report.notebook import looks_card  # noqa: PLC0415 - where HTML is made

        return looks_card(self)


def find_looks(evaluator: Evaluator, examples: Sequence[TrainingExample]) -> FoundLooks:
    """Return the looks among examples; see `TrainingEngine.looks`."""
    from tsm_training.color_transfer import LearnedLook  # noqa: PLC0415 - few programs ask for looks

    learner = next((w for w in evaluator.trainable_workers.values() if isinstance(w, LearnedLook)), LearnedLook())
    pool = WorkerPool()
    pool.register_worker(learner)
    run = attrs.evolve(evaluator, pool=pool).evaluate(examples)
    copies = by_contents(item.example for item in run.evaluated)
    name = observation_name(learner.worker_id, evaluator.observed_as(learner))
    held = {**evaluator.store.load_observations(name, copies), **run.observations.get(name, {})}
    reasons = run.unobserved.get(learner.worker_id, {})
    left_out = dict(run.skipped)
    observations = []
    for digest, group in copies.items():
        if held.get(digest):
            files = group[0].known_files
            observations.append(Observation(digest, files.source.sha256, files.target.sha256, None, held[digest]))
        else:
            left_out |= {each.example_id: str(reasons.get(digest, _NOTHING_TO_LEARN)) for each in group}
    found = learner.find_looks(observations)
    place = {example.example_id: number for number, example in enumerate(examples)}
    looks: list[FoundLook] = []
    alone: list[str] = []
    look_of: dict[str, int] = {}
    for number, look in enumerate(found):
        members = [example for row in look.members for example in copies[observations[row].digest]]
        members.sort(key=lambda example: place[example.example_id])
        look_of |= {example.example_id: number for example in members}
        ids = tuple(example.example_id for example in members)
        if len(ids) > 1:
            centre = copies[observations[look.centre].digest][0].example_id
            looks.append(FoundLook(ids, centre, look.agreement, _commonest(members)))
        else:
            alone += ids
    compared = [example for example in examples if example.example_id in look_of]
    agreement = {}
    # A key whose values all differ, such as a name, divides nothing.
    for key in (key for key, counts in _texts(compared).items() if 1 < len(counts) < counts.total()):
        named = [example for example in compared if isinstance(example.metadata.get(key), str)]
        numbers = [look_of[example.example_id] for example in named]
        agreement[key] = round(adjusted_rand_index(numbers, [example.metadata[key] for example in named]), 6)
    looks.sort(key=lambda look: (-len(look.members), place[look.members[0]]))
    return FoundLooks(tuple(looks), tuple(sorted(alone, key=place.__getitem__)), agreement, left_out)


def _texts(examples: Sequence[TrainingExample]) -> dict[str, Counter[str]]:
    """Return how often examples hold each text, by metadata key."""
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        for key, value in example.metadata.items():
            if isinstance(value, str):
                counts.setdefault(key, Counter())[value] += 1
    return dict(sorted(counts.items()))


def _commonest(members: Sequence[TrainingExample]) -> dict[str, tuple[str, int]]:
    return {key: min(counts.items(), key=lambda item: (-item[1], item[0])) for key, counts in _texts(members).items()}
