"""The same numbers per family of questions: where an acceleration hurts, not only how much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steadyvlm.records import Prediction
from steadyvlm.report.data import ArmReport
from steadyvlm.stability import Comparison, Slice
from steadyvlm.stability.compare import NO_FAMILY

FEW_IN_FAMILY = 30
"""Below so many samples a family is drawn as uncertain and never called the worst."""
HEAT_STEPS = (0.0, 0.01, 0.025, 0.05, 0.10, 0.20, 0.40)
"""A share above the k-th limit is drawn with heat k + 1; 0 is drawn without heat."""


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family (or task), with the slice of every arm; None where an arm did not answer it."""

    name: str
    samples: int
    slices: tuple[Slice | None, ...]

    @property
    def score_original(self) -> float:
        """Mean score of the original on the arm with most samples; nan if there is none."""
        known = [item for item in self.slices if item is not None and item.n]
        return max(known, key=lambda item: item.n).score_original if known else float("nan")


def family_rows(arms: Sequence[ArmReport]) -> tuple[FamilyRow, ...]:
    """Return the families of all arms, the ones with most changed answers first; empty if there is only one."""
    return _rows([arm.comparison.by_family for arm in arms])


def task_rows(arms: Sequence[ArmReport]) -> tuple[FamilyRow, ...]:
    """Return the tasks of all arms, the ones with most changed answers first; empty if there is only one."""
    return _rows([arm.comparison.by_task for arm in arms])


def family_name(prediction: Prediction, comparisons: Sequence[Comparison]) -> str:
    """Return the name under which `prediction` is counted in `Comparison.by_family`."""
    name = prediction.family or NO_FAMILY
    qualified = f"{prediction.task}/{name}"
    return qualified if any(qualified in item.by_family for item in comparisons) else name


def worst_families(comparison: Comparison, limit: int = 3) -> tuple[Slice, ...]:
    """Return the families with the largest share of right→wrong answers, leaving out small ones and zeros."""
    large = [item for item in comparison.by_family.values() if item.n >= FEW_IN_FAMILY]
    broken = [item for item in large if item.negative]
    if len(large) < 2:
        return ()
    return tuple(sorted(broken, key=lambda item: (-item.negative_divergence_ratio.value, item.name))[:limit])


def heat(share: float) -> int:
    """Return the step of the colour scale for a share, 0 to 7.

    >>> heat(0.0), heat(0.004), heat(0.03), heat(0.9)
    (0, 1, 3, 7)
    """
    return sum(share > step for step in HEAT_STEPS) if math.isfinite(share) else 0


def _rows(tables: Sequence[Mapping[str, Slice]]) -> tuple[FamilyRow, ...]:
    names = list(dict.fromkeys(name for table in tables for name in table))
    if len(names) < 2:
        return ()
    rows = []
    for name in names:
        slices = tuple(table.get(name) for table in tables)
        rows.append(FamilyRow(name, max(item.n for item in slices if item is not None), slices))
    return tuple(sorted(rows, key=lambda row: (-_mean_change(row), row.name)))


def _mean_change(row: FamilyRow) -> float:
    shares = [item.divergence_ratio.value for item in row.slices if item is not None and item.n]
    return sum(shares) / len(shares) if shares else 0.0
