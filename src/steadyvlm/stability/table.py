"""The paired runs as columns, from which any set of samples is summarised without touching a record again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from steadyvlm.records import Prediction
from steadyvlm.stability.clusters import cluster_codes
from steadyvlm.stability.pairing import Key
from steadyvlm.stability.ratios import FLIP_KINDS, Outcomes, flip_codes, outcomes_of
from steadyvlm.stability.summary import Failures, Flip, Slice, summarise

BoolArray = npt.NDArray[np.bool_]
RowArray = npt.NDArray[np.intp]
Pairs = Sequence[tuple[Prediction, Prediction]]


@dataclass(frozen=True, slots=True)
class FailedSample:
    """A sample that was not compared, or not controlled, and why: side to reason."""

    key: Key
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """P paired samples, of which N were answered on both sides and C by every control run as well.

    Attributes:
        pairs: [P] (original, accelerated), sorted by key.
        failed: side to [P] bool, whether that side has no answer; sides are original, accelerated and control.
        rows: [N] int, positions in `pairs` of the samples answered on both sides.
        outcomes: N rows.
        codes: [N] int64, cluster of each sample.
        control_rows: [C] int, rows of `outcomes` that every control answered; None without a control run.
        controls: original against each control, C rows each.
    """

    pairs: Pairs
    failed: Mapping[str, BoolArray]
    rows: RowArray
    outcomes: Outcomes
    codes: npt.NDArray[np.int64]
    control_rows: RowArray | None
    controls: tuple[Outcomes, ...]

    @property
    def answered(self) -> list[tuple[Prediction, Prediction]]:
        """The N pairs answered on both sides."""
        return [self.pairs[row] for row in self.rows.tolist()]

    def summary(self, name: str, chosen: BoolArray | None = None, *, alpha: float = 0.05, seed: int = 0) -> Slice:
        """Return all numbers about the samples where `chosen`, [P] bool, holds; about all of them if None."""
        if chosen is None:
            chosen = np.ones(len(self.pairs), dtype=np.bool_)
        kept = chosen[self.rows]
        failures = {side: int((flags & chosen).sum()) for side, flags in self.failed.items()}
        control_rows, controls = None, self.controls
        if self.control_rows is not None:
            controlled = kept[self.control_rows]
            position = np.cumsum(kept) - 1
            control_rows = position[self.control_rows[controlled]]
            controls = tuple(control.take(np.flatnonzero(controlled)) for control in self.controls)
        return summarise(
            name,
            self.outcomes.take(np.flatnonzero(kept)),
            self.codes[kept],
            Failures(**failures, samples=int(chosen.sum() - kept.sum())),
            controls=controls,
            control_rows=control_rows,
            alpha=alpha,
            seed=seed,
        )

    def summaries(self, names: Sequence[str], overall: Slice, *, alpha: float, seed: int) -> dict[str, Slice]:
        """Return one summary per distinct name in `names`, [P] str, sorted by name; `overall` is that of all P."""
        codes = cluster_codes(names)
        numbers = {name: int(codes[row]) for row, name in enumerate(names)}
        if len(numbers) == 1:
            return {name: replace(overall, name=name) for name in numbers}
        return {
            name: self.summary(name, codes == code, alpha=alpha, seed=seed) for name, code in sorted(numbers.items())
        }

    def flips(self) -> tuple[Flip, ...]:
        """Return every sample whose answer, or only its format, is not the same, ordered by key."""
        kinds = flip_codes(self.outcomes)
        fragile = np.full(len(self.outcomes), -1)
        if self.control_rows is not None:
            fragile[self.control_rows] = self.controls[0].changed
        found = []
        for row in np.flatnonzero(kinds != FLIP_KINDS.index("unchanged")):
            original, accelerated = self.pairs[int(self.rows[row])]
            found.append(
                Flip(
                    key=original.key,
                    kind=FLIP_KINDS[kinds[row]],
                    family=original.family,
                    original_answer=original.answer,
                    accelerated_answer=accelerated.answer,
                    original_score=original.score,
                    accelerated_score=accelerated.score,
                    fragile=None if fragile[row] < 0 else bool(fragile[row]),
                )
            )
        return tuple(found)


def build_table(pairs: Pairs, controls: Sequence[Sequence[Prediction | None]], *, correct_threshold: float) -> Table:
    """Return the columns of `pairs`.

    Args:
        pairs: (original, accelerated), sorted by key.
        controls: the answers of each control run to `pairs`, in the same order; None where it has none.
        correct_threshold: a score at or above it counts as right.
    """
    original_failed = _flags([a.failure is not None for a, _ in pairs])
    accelerated_failed = _flags([b.failure is not None for _, b in pairs])
    control_failed, uncontrolled = np.zeros((2, len(pairs)), dtype=np.bool_)
    for run in controls:
        missing = _flags([item is None for item in run])
        failures = _flags([item is not None and item.failure is not None for item in run])
        control_failed |= failures
        uncontrolled |= missing | failures
    rows = np.flatnonzero(~(original_failed | accelerated_failed))
    answered = [pairs[row] for row in rows.tolist()]
    control_rows = np.flatnonzero(~uncontrolled[rows])
    controlled = rows[control_rows].tolist()
    return Table(
        pairs=pairs,
        failed={"original": original_failed, "accelerated": accelerated_failed, "control": control_failed},
        rows=rows,
        outcomes=outcomes_of(answered, correct_threshold=correct_threshold),
        codes=cluster_codes([cluster_of(original) for original, _ in answered]),
        control_rows=control_rows if controls else None,
        controls=tuple(
            outcomes_of(
                [(pairs[row][0], item) for row in controlled if (item := run[row]) is not None],
                correct_threshold=correct_threshold,
            )
            for run in controls
        ),
    )


def failed_samples(
    pairs: Pairs, controls: Sequence[Sequence[Prediction | None]], failed: Mapping[str, BoolArray]
) -> tuple[FailedSample, ...]:
    """Return why each sample that `failed` marks on any side has no answer there."""
    found = []
    for row in np.flatnonzero(np.logical_or.reduce(list(failed.values()))).tolist():
        original, accelerated = pairs[row]
        sides = [("original", original), ("accelerated", accelerated), *(("control", run[row]) for run in controls)]
        reasons = {
            side: f"{item.failure.kind}: {item.failure.message}"
            for side, item in sides
            if item is not None and item.failure is not None
        }
        found.append(FailedSample(original.key, reasons))
    return tuple(found)


def _flags(values: Sequence[bool]) -> BoolArray:
    return np.fromiter(values, dtype=np.bool_, count=len(values))


def cluster_of(sample: Prediction) -> str:
    """What a sample is not independent of: its image, else its rotations, else the sample it was made from.

    Image ids count across tasks, since benchmarks share pictures; two that collide by accident only widen intervals.
    """
    if sample.cluster:
        return sample.cluster
    kind = "group" if sample.group else "id"
    return "\x1f".join((sample.task, kind, sample.group or sample.parent or sample.sample_id))
