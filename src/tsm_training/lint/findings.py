"""What lint looks at and what it finds: items, kinds of faults with what is said of them, findings, and the report."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, cast

import attrs

from tsm_training.data import ExampleFiles
from tsm_training.lint.sketches import Sketch
from tsm_training.text import counted

Severity: TypeAlias = Literal["error", "warning", "info"]
"""``error``: the example cannot be used as it is. ``warning``: it can, but it probably teaches something wrong, or
nothing. ``info``: worth knowing."""

LintKind: TypeAlias = Literal[
    "missing_file",
    "unreadable_file",
    "changed_file",
    "unusable_row",
    "size_mismatch",
    "swapped",
    "truth_is_target",
    "truth_is_source",
    "source_is_target",
    "truth_is_worker_output",
    "truth_is_ensemble_output",
    "truth_channels_swapped",
    "worker_channels_swapped",
    "unrepeatable_worker",
    "unrelated_truth",
    "flat_picture",
    "contradiction",
    "duplicate",
    "near_duplicate",
    "tiny_group",
    "constant_area",
    "profiles_differ",
    "shared_result",
    "few_examples",
]
"""What may be wrong with examples; `SEVERITIES` has the same names, in the order in which a report lists them."""


Action: TypeAlias = Literal[
    "nothing", "add", "relink", "remove", "swap", "same files", "same truth", "new truth", "new source"
]
"""What puts an item right."""


class Rule(NamedTuple):
    """How bad a kind of fault is, and what a finding says of it; `found` fills in what stands in braces."""

    severity: Severity
    message: str
    remedy: str
    action: Action = "nothing"


_PAIR = "({difference:.1f} levels apart on average)"
_EDGES = (
    "{items}: the edges of its truth {truth!r} agree by {with_source:.2f} with those of its source {source!r}, by "
    "{with_target:.2f} with those of its target {target!r}."
)
_MADE = "give it a truth that was made by hand or by other means: this one teaches nothing."

RULES: Final[Mapping[LintKind, Rule]] = {
    "missing_file": Rule(
        "error",
        "{items}: its {role} cannot be used: {error}.",
        "Correct the path, find the file again where it has been moved to, or remove the example.",
        "relink",
    ),
    "unreadable_file": Rule(
        "error",
        "{items}: its {role} cannot be used: {error}.",
        "Restore the file, save it in an accepted format, or move it to where images may be read from; else remove the "
        "example.",
        "remove",
    ),
    "changed_file": Rule(
        "error",
        "{items}: its {role} {path!r} has changed since it was added: {before} then, {now} now.",
        "Restore the old file, or have the library take the new one.",
        "same files",
    ),
    "unusable_row": Rule(
        "error",
        "{items} cannot be added: {reason}.",
        "Give it the paths of source, target and truth, and perhaps metadata, or leave it out.",
        "remove",
    ),
    "size_mismatch": Rule(
        "error",
        "{items}: its target {target!r} has {target_size} pixels, its truth {truth!r} {truth_size}.",
        "Give it a truth of exactly the target's size, not scaled from another one if that can be helped.",
        "new truth",
    ),
    "swapped": Rule("error", _EDGES, "Swap source and target, unless the truth belongs to another example.", "swap"),
    "truth_is_target": Rule(
        "warning",
        "{items}: its truth {truth!r} is its target {target!r} " + _PAIR + ".",
        "Give it the wanted result, unless the target is meant to stay as it is.",
        "new truth",
    ),
    "truth_is_source": Rule(
        "warning",
        "{items}: its truth {truth!r} is its source {source!r} " + _PAIR + ".",
        "Give it the wanted result for the target as truth, or another source, or remove it.",
        "new truth",
    ),
    "source_is_target": Rule(
        "warning",
        "{items}: its source {source!r} is its target {target!r} " + _PAIR + ".",
        "Give it another source, or remove it: there are no colours to transfer.",
        "new source",
    ),
    "truth_is_worker_output": Rule(
        "warning",
        "{items}: its truth {truth!r} is what worker {name!r} makes " + _PAIR + ".",
        "If {name!r} made it, " + _MADE,
        "new truth",
    ),
    "truth_is_ensemble_output": Rule(
        "warning",
        "{items}: its truth {truth!r} is what the ensemble makes {name} " + _PAIR + ".",
        "If the ensemble made it, " + _MADE,
        "new truth",
    ),
    "truth_channels_swapped": Rule(
        "warning",
        "{items}: red and blue of its truth {truth!r} seem to be exchanged: with them the other way round it comes "
        "nearer to {reference}.",
        "Write the truth anew in the right order; cv2.imwrite wants BGR, most other libraries RGB.",
        "new truth",
    ),
    "worker_channels_swapped": Rule(
        "warning",
        "Red and blue of what worker {name!r} makes seem to be exchanged, in {count} of {compared} examples: {items}.",
        "If it works in RGB, register it as FunctionWorker({name!r}, function, color='rgb').",
    ),
    "unrepeatable_worker": Rule(
        "warning",
        "Worker {name!r} scores otherwise than before on the same pictures, by up to {change:.2g}; tried on {items}.",
        "Give it a fixed seed, and state that does not change from call to call; a new version of what it uses needs a "
        "new `version` of the worker.",
    ),
    "unrelated_truth": Rule(
        "warning", _EDGES, "Give it the truth that was made of this target, or remove it.", "new truth"
    ),
    "flat_picture": Rule(
        "warning",
        "{items}: next to no variation (standard deviation) in its {flat}.",
        "Remove the example unless an even image is meant: nothing can be learned from it about colours.",
        "remove",
    ),
    "contradiction": Rule(
        "warning",
        "{items} want different truths ({truths}) for one source {source!r} and target {target!r}.",
        "Keep the one that is really wanted; the call keeps what is stored, or else the last one.",
        "remove",
    ),
    "duplicate": Rule(
        "warning",
        "{items} have the same three files, byte for byte; the first has {source!r}, {target!r} and {truth!r}.",
        "Keep one of them: together they count once.",
        "remove",
    ),
    "near_duplicate": Rule(
        "warning",
        "{items} have the same three images, saved in another way or changed a little; the first has {source!r}, "
        "{target!r} and {truth!r}.",
        "Keep the best of them: together they count more than once, and some may be held out while others train.",
        "remove",
    ),
    "tiny_group": Rule(
        "warning",
        "{group}.",
        "Add more examples of the group or join it with a similar one; add the key where it is missing.",
        "add",
    ),
    "constant_area": Rule(
        "info",
        "{items}: one colour, as of a border, a background or a mask, fills {least:.0%} to {most:.0%} of target and "
        "truth.",
        "Judge the rest only: TrainingEngine.using(GuideSimilarity(ignore_border=True)), or another metric told the "
        "same; otherwise changing nothing may look like the best answer.",
    ),
    "profiles_differ": Rule(
        "info",
        "{items}: the colour profiles are not the same: {profiles}.",
        "Nothing has to be done if each picture shows the right colours. One that has lost its profile on its way does "
        "not: export it anew with the profile, or as sRGB.",
    ),
    "shared_result": Rule(
        "info",
        "{groups} with the same target and truth and different sources: {shown}.",
        "Nothing has to be done if all those sources have the look that is wanted.",
    ),
    "few_examples": Rule(
        "info",
        "{count} in all; with fewer than {least}, weights stay uncertain.",
        "Add more, as different from each other as later requests.",
        "add",
    ),
}
"""What is said of each kind, in the order in which a report lists them."""

SEVERITIES: Final[Mapping[LintKind, Severity]] = {kind: rule.severity for kind, rule in RULES.items()}
"""How bad each kind is, in the order in which a report lists them."""

_MOST_NAMED: Final = 3
_SHORT_ID: Final = 8


# --- findings -------------------------------------------------------------------------------------------------------


class FindingDocument(TypedDict):
    """A finding, ready for JSON."""

    kind: LintKind
    severity: Severity
    """How bad it is."""
    examples: list[str]
    rows: list[int]
    message: str
    remedy: str
    call: str
    removable: list[str | int]


class LintDocument(TypedDict):
    """A report, ready for JSON."""

    num_examples: int
    num_compared: int
    counts: dict[Severity, int]
    """How many findings there are of each severity."""
    findings: list[FindingDocument]
    """The worst kinds first."""


@attrs.frozen
class LintFinding:
    """One thing that is wrong, or worth knowing, and what can be done about it."""

    kind: LintKind
    message: str
    """What is wrong with which files, with figures."""
    remedy: str
    """What to do, in a sentence."""
    call: str = ""
    """The Python that does it, for a manager named ``manager`` and candidates in a list named ``rows``; empty where
    nothing needs to be done. What is written in capitals (``'FOLDER'``, ``'PATH'``, ``ROWS``) has to be filled in.
    A row that should go is replaced by None, so that no other one moves: take ``[row for row in rows if row]`` then.
    """
    examples: tuple[str, ...] = ()
    """Ids of the stored examples that it is about."""
    rows: tuple[int, ...] = ()
    """Places of the candidates that it is about in the list that was given, from 0."""
    removable: tuple[str | int, ...] = ()
    """Ids of examples, or places of candidates, that can go without losing anything; empty where a person has to look
    first."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return SEVERITIES[self.kind]

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.message} {self.remedy}"

    def to_dict(self) -> FindingDocument:
        """Return the finding, ready for JSON."""
        document = {name: getattr(self, name) for name in FindingDocument.__annotations__}
        lists = {"examples": [*self.examples], "rows": [*self.rows], "removable": [*self.removable]}
        return cast("FindingDocument", document | lists)


@attrs.frozen
class LintReport:
    """All findings, the worst kinds first; as true as a list: empty, and so False, where nothing was found."""

    findings: tuple[LintFinding, ...]
    """The worst kinds first."""
    num_examples: int
    """How many examples, or candidates, were inspected."""
    num_compared: int
    """Of how many of them the truth was compared with the images of workers and ensemble; the others have none."""

    def of_kind(self, kind: LintKind) -> list[LintFinding]:
        """Return the findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    def of_severity(self, severity: Severity) -> list[LintFinding]:
        """Return the findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[LintFinding]:
        return iter(self.findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or f"nothing was found in {counted(self.num_examples, 'example')}"

    def _repr_html_(self) -> str:
        """Show the findings in a notebook."""
        from tsm_training.report.notebook import lint_card  # noqa: PLC0415 - where HTML is made

        return lint_card(self)

    def to_dict(self) -> LintDocument:
        """Return the report, ready for JSON."""
        severities: tuple[Severity, ...] = ("error", "warning", "info")
        return {
            "num_examples": self.num_examples,
            "num_compared": self.num_compared,
            "counts": {severity: len(self.of_severity(severity)) for severity in severities},
            "findings": [finding.to_dict() for finding in self.findings],
        }


# --- items ----------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, repr=False)
class Item:
    """A stored example, or a candidate."""

    reference: str | int
    """The id of an example, or the place of a candidate in the list that was given, from 0."""
    paths: tuple[str, str, str]
    """Paths of source, target and truth."""
    metadata: Mapping[str, Any] | None
    """None where a candidate has none."""
    files: ExampleFiles | None = None
    """The contents of its files: of an example as they were added, of a candidate once all of them were read."""
    sketches: tuple[Sketch, Sketch, Sketch] | None = None
    """Sketches of source, target and truth, once all of them were read."""
    is_usable: bool = True
    """False if one of its files cannot be used as it is now."""

    @property
    def is_candidate(self) -> bool:
        """Tell whether it is not stored yet."""
        return isinstance(self.reference, int)

    @property
    def label(self) -> str:
        """A name for messages: of an example the name of its target's file, and the beginning of its id."""
        if isinstance(self.reference, int):
            return f"rows[{self.reference}]"
        name, short = PurePath(self.paths[1]).stem, self.reference[:_SHORT_ID]
        return f"example {name!r} ({short}{'' if short == self.reference else '…'})"

    @property
    def digest(self) -> str:
        """What tells it apart from others: its contents, or where those are not known, its reference."""
        return repr(self.reference) if self.files is None else self.files.digest


def grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> dict[Hashable, list[Item]]:
    """Return the items that have each key, in order."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def found(
    kind: LintKind,
    items: Sequence[Item],
    *,
    action: Action | None = None,
    going: Sequence[Item] | None = None,
    removable: Iterable[Item] = (),
    **facts: object,
) -> LintFinding:
    """Return a finding about some items.

    Args:
        kind: Kind of fault.
        items: What it is about, the first of them first of all.
        action: What puts it right, if not what usually does.
        going: The items that the call is about, if not all of them.
        removable: The items that can go without losing anything.
        facts: What else the kind's message and remedy name.
    """
    rule = RULES[kind]
    facts["items"] = shortened([item.label for item in items])
    if items:
        facts |= zip(("source", "target", "truth"), items[0].paths, strict=True)
    references = [item.reference for item in items]
    return LintFinding(
        kind,
        rule.message.format(**facts),
        rule.remedy.format(**facts),
        python_for(rule.action if action is None else action, items if going is None else going),
        examples=tuple(reference for reference in references if isinstance(reference, str)),
        rows=tuple(reference for reference in references if isinstance(reference, int)),
        removable=tuple(item.reference for item in removable),
    )


def shortened(texts: Sequence[str], separator: str = ", ", rest: str = "") -> str:
    """Return the first few texts, and how many more there are."""
    more = f" and {len(texts) - _MOST_NAMED} more{rest}" if len(texts) > _MOST_NAMED else ""
    return separator.join(texts[:_MOST_NAMED]) + more


def python_for(action: Action, items: Sequence[Item]) -> str:
    """Return the Python that does something about items, one line each; all but "remove" are about the first one.

    A row that goes is replaced by None and moves no other, so the calls of several findings can be run in any order.
    """
    if action == "add":
        return "manager.add_training_examples(ROWS)"
    if action == "nothing":
        return ""
    if action == "remove":
        return "\n".join(map(_removal, items))
    item = items[0]
    source, target, truth = item.paths
    if action == "relink":
        return _removal(item) if item.is_candidate else "manager.relink('FOLDER')"
    if action in {"same truth", "new truth"} and not item.is_candidate:
        return f"manager.replace_ground_truth({item.reference!r}, {truth if action == 'same truth' else 'PATH'!r})"
    paths = {
        "swap": (target, source, truth),
        "new truth": (source, target, "PATH"),
        "new source": ("PATH", target, truth),
    }
    entries: Iterable[object] = paths.get(action, item.paths)
    text = ", ".join(repr(entry) for entry in (*entries, *([] if item.metadata is None else [dict(item.metadata)])))
    if item.is_candidate:
        return f"rows[{item.reference}] = ({text})"
    return f"{_removal(item)}\nmanager.add_training_example({text})"


def _removal(item: Item) -> str:
    if item.is_candidate:
        return f"rows[{item.reference}] = None"
    return f"manager.remove_training_example({item.reference!r})"
