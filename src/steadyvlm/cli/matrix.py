"""Which method works on which model family: read from the methods and the table of families, never written by hand.

A method refuses a family by name (`refusals`), or asks its vision tower for a signal the tower does not give. Where its
source does not say how it is carried over, the method states an equivalent. Everything else works as published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from steadyvlm.errors import SteadyVLMError

if TYPE_CHECKING:
    from steadyvlm.models.families import Family
    from steadyvlm.reduction.base import Reduction

Kind = Literal["works", "equivalent", "refused"]


@dataclass(frozen=True, slots=True)
class Support:
    """What becomes of a method on a family; `reason` says how or why, "" where it simply works."""

    kind: Kind
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def support_matrix() -> dict[str, dict[str, Support]]:
    """Return method -> family -> support, at every method's own settings.

    >>> str(support_matrix()["fastv"]["qwen2_5_vl"])
    'works'
    """
    from steadyvlm.models.families import FAMILIES
    from steadyvlm.reduction import REDUCTIONS

    found: dict[str, dict[str, Support]] = {}
    for name in REDUCTIONS:
        try:
            reduction = REDUCTIONS.create(name)
        except SteadyVLMError:  # a method of another package that has no settings of its own
            continue
        found[name] = {family: support(reduction, family, row) for family, row in FAMILIES.items()}
    return found


def support(reduction: Reduction, family: str, row: Family) -> Support:
    """Return what becomes of a method on a family."""
    from steadyvlm.reduction.base import FamilyAware

    equivalents: Mapping[str, str] = reduction.equivalents if isinstance(reduction, FamilyAware) else {}
    refusals: Mapping[str, str] = reduction.refusals if isinstance(reduction, FamilyAware) else {}
    if family in refusals:
        return Support("refused", refusals[family])
    missing = sorted(
        signal.value for signal in reduction.needs if signal.of_encoder and signal.value not in row.signals
    )
    if missing:
        return Support("refused", f"Its vision tower gives no {', '.join(missing)}.")
    return Support("equivalent", equivalents[family]) if family in equivalents else Support("works")


def matrix_lines(matrix: Mapping[str, Mapping[str, Support]]) -> Iterator[str]:
    """Yield the matrix as lines of text: a table, then each reason once.

    >>> rows = {"trim": {"llava": Support("works"), "qwen2_vl": Support("refused", "No text tower.")}}
    >>> print("\\n".join(matrix_lines(rows)))
          llava  qwen2_vl
    trim  works  refused
    <BLANKLINE>
    trim on qwen2_vl, refused: No text tower.
    """
    families = list(next(iter(matrix.values()), {}))
    table = [["", *families], *([name, *(row[family].kind for family in families)] for name, row in matrix.items())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    yield ""
    for names, where, what in reasons(matrix):
        yield f"{', '.join(names)} on {', '.join(where)}, {what.kind}: {what.reason}"


def reasons(matrix: Mapping[str, Mapping[str, Support]]) -> list[tuple[list[str], list[str], Support]]:
    """Return (methods, families, support) with every reason once, for what does not simply work."""
    places: dict[tuple[Support, tuple[str, ...]], list[str]] = {}
    for name, row in matrix.items():
        told: dict[Support, list[str]] = {}
        for family, what in row.items():
            if what.reason:
                told.setdefault(what, []).append(family)
        for what, families in told.items():
            places.setdefault((what, tuple(families)), []).append(name)
    return [(names, list(families), what) for (what, families), names in places.items()]
