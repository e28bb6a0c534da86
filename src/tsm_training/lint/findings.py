"""What a look at a dataset finds: kinds of faults, single findings, and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias, TypedDict

import attrs

from tsm_training.markup import card, counted, joined, small_table, tag

__all__ = ["SEVERITIES", "FindingDocument", "LintDocument", "LintFinding", "LintKind", "LintReport", "Severity"]

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
    "unrelated_truth",
    "flat_picture",
    "contradiction",
    "duplicate",
    "near_duplicate",
    "tiny_group",
    "shared_result",
    "few_examples",
]
"""What may be wrong with examples; `SEVERITIES` has the same names, in the order in which a report lists them."""

SEVERITIES: Final[Mapping[LintKind, Severity]] = {
    "missing_file": "error",  # there is no file of that name
    "unreadable_file": "error",  # it is cut off, damaged, of another kind, too large, or must not be read
    "changed_file": "error",  # its contents are not those that were added
    "unusable_row": "error",  # a candidate that is no triple of paths with metadata that JSON can hold
    "size_mismatch": "error",  # target and truth differ in size
    "swapped": "error",  # the truth shows what the source shows, not what the target shows
    "truth_is_target": "warning",  # the wanted result is the target as it is
    "truth_is_source": "warning",  # the wanted result is the source itself
    "source_is_target": "warning",  # there are no colours to transfer
    "truth_is_worker_output": "warning",  # the wanted result was probably made by a worker
    "truth_is_ensemble_output": "warning",  # it was probably made by the ensemble
    "unrelated_truth": "warning",  # the truth shows neither what the target nor what the source shows
    "flat_picture": "warning",  # a picture has next to no variation
    "contradiction": "warning",  # the same source and target, and different truths
    "duplicate": "warning",  # the same three files, byte for byte
    "near_duplicate": "warning",  # the same three pictures, saved in another way or changed a little
    "tiny_group": "warning",  # a group that is too small to have weights of its own
    "shared_result": "info",  # the same target and truth, and different sources
    "few_examples": "info",  # too few examples in all
}
"""How bad each kind is, in the order in which a report lists them."""


_MOST_SHOWN: Final = 30


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
    """Ids of examples, or places of candidates, that can go without losing anything; empty where somebody has to look
    first."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return SEVERITIES[self.kind]

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.message} {self.remedy}"

    def to_dict(self) -> FindingDocument:
        """Return the finding, ready for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "examples": list(self.examples),
            "rows": list(self.rows),
            "message": self.message,
            "remedy": self.remedy,
            "call": self.call,
            "removable": list(self.removable),
        }


@attrs.frozen
class LintReport:
    """All findings, the worst kinds first; as true as a list: empty, and so False, where nothing was found."""

    findings: tuple[LintFinding, ...]
    """The worst kinds first."""
    num_examples: int
    """How many examples, or candidates, were looked at."""
    num_compared: int
    """Of how many of them the truth was compared with the pictures of workers and ensemble; the others have none."""

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
        title = f"{counted(len(self), 'finding')} in {counted(self.num_examples, 'example')}"
        shown = self.findings[:_MOST_SHOWN]
        rows = [
            [found.severity, found.message, joined(found.remedy, tag("br"), tag("code", found.call))] for found in shown
        ]
        left = len(self) - len(shown)
        more = tag("div", f"and {left} more") if left else None
        return card(title, small_table(["severity", "what", "what to do"], rows) if rows else None, more)

    def to_dict(self) -> LintDocument:
        """Return the report, ready for JSON."""
        severities: tuple[Severity, ...] = ("error", "warning", "info")
        return {
            "num_examples": self.num_examples,
            "num_compared": self.num_compared,
            "counts": {severity: len(self.of_severity(severity)) for severity in severities},
            "findings": [finding.to_dict() for finding in self.findings],
        }
