"""What happened to each answer: one column per fact, and the table of flips they add up to.

An answer is *changed* when its canonical form differs. Of n samples that both sides answered,
DR = changed / n, NDR = right→wrong / n, PFR = wrong→right / n, and the rest of the changes went from one wrong answer
to another or (with several accepted answers) from one right answer to another. Two unreadable answers are no change.

Source:
    Sun et al. 2025, EMNLP main.425, arXiv 2503.06794 (divergence ratio, negative divergence ratio);
    Yan et al. 2021, CVPR, arXiv 2011.09161 (negative and positive flips).
Differs:
    Sun et al. can be read with two denominators for NDR; both are reported. A soft score counts as right from a
    threshold on (0.5: two of ten annotators); loss and gain flow need no threshold and generalise NDR and PFR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from steadyvlm.errors import RunError
from steadyvlm.records import UNPARSED, Prediction
from steadyvlm.stability.pairing import SCORE_TOLERANCE

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FlipKind = Literal[
    "right_to_wrong",
    "wrong_to_right",
    "wrong_to_other_wrong",
    "right_to_other_right",
    "format_only",
    "unchanged",
]
FLIP_KINDS: tuple[FlipKind, ...] = get_args(FlipKind)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One row per sample that both sides answered; all columns have length N.

    Attributes:
        changed: canonical answers differ.
        text_changed: raw texts differ.
        original_score, accelerated_score: in [0, 1].
        original_right, accelerated_right: score at or above the threshold.
        original_unparsed, accelerated_unparsed: no answer could be read.
    """

    changed: BoolArray
    text_changed: BoolArray
    original_score: FloatArray
    accelerated_score: FloatArray
    original_right: BoolArray
    accelerated_right: BoolArray
    original_unparsed: BoolArray
    accelerated_unparsed: BoolArray

    def __len__(self) -> int:
        return len(self.changed)

    @property
    def negative(self) -> BoolArray:
        """Right before, wrong now."""
        return self.original_right & ~self.accelerated_right

    @property
    def positive(self) -> BoolArray:
        """Wrong before, right now."""
        return ~self.original_right & self.accelerated_right

    def take(self, rows: npt.NDArray[np.intp]) -> Outcomes:
        """Return only `rows`, [R] int."""
        return Outcomes(*(getattr(self, item.name)[rows] for item in fields(self)))


@dataclass(frozen=True, slots=True)
class FlipCounts:
    """How many samples each thing happened to; the cells sum to n."""

    right_to_wrong: int
    wrong_to_right: int
    wrong_to_other_wrong: int
    right_to_other_right: int
    format_only: int
    unchanged: int

    @property
    def n(self) -> int:
        """Samples in the table."""
        return self.changed + self.format_only + self.unchanged

    @property
    def changed(self) -> int:
        """Samples whose canonical answer changed."""
        return self.right_to_wrong + self.wrong_to_right + self.wrong_to_other_wrong + self.right_to_other_right


def outcomes_of(pairs: Sequence[tuple[Prediction, Prediction]], *, correct_threshold: float = 0.5) -> Outcomes:
    """Return the columns of `pairs`, none of which may have failed.

    >>> len(outcomes_of([]))
    0
    """
    count = len(pairs)

    def flags(values: Sequence[bool]) -> BoolArray:
        return np.fromiter(values, dtype=np.bool_, count=count)

    changed = flags([a.answer != b.answer for a, b in pairs])
    original_score = np.fromiter((a.score for a, _ in pairs), dtype=np.float64, count=count)
    accelerated_score = np.fromiter((b.score for _, b in pairs), dtype=np.float64, count=count)
    # Pairing has verified that an unchanged answer kept its score up to rounding; drop that rounding.
    accelerated_score = np.where(changed, accelerated_score, original_score)
    return Outcomes(
        changed=changed,
        text_changed=flags([a.text != b.text for a, b in pairs]),
        original_score=original_score,
        accelerated_score=accelerated_score,
        original_right=original_score >= correct_threshold - SCORE_TOLERANCE,
        accelerated_right=accelerated_score >= correct_threshold - SCORE_TOLERANCE,
        original_unparsed=flags([a.answer == UNPARSED for a, _ in pairs]),
        accelerated_unparsed=flags([b.answer == UNPARSED for _, b in pairs]),
    )


def flip_codes(outcomes: Outcomes) -> IntArray:
    """Return for each sample the index into `FLIP_KINDS` of what happened to it.

    Two unreadable answers with different texts are unchanged: neither is an answer, so no format changed either.

    >>> flip_codes(outcomes_of([]))
    array([], dtype=int64)
    """
    right, still_right = outcomes.original_right, outcomes.accelerated_right
    conditions = [
        outcomes.changed & right & ~still_right,
        outcomes.changed & ~right & still_right,
        outcomes.changed & ~right & ~still_right,
        outcomes.changed & right & still_right,
        ~outcomes.changed & outcomes.text_changed & ~outcomes.original_unparsed,
    ]
    return np.select(conditions, list(range(5)), default=5).astype(np.int64)


def count_flips(outcomes: Outcomes) -> FlipCounts:
    """Return the flip table.

    >>> count_flips(outcomes_of([])).n
    0
    """
    return FlipCounts(*(int(count) for count in np.bincount(flip_codes(outcomes), minlength=len(FLIP_KINDS))))


def flows(outcomes: Outcomes) -> tuple[float, float]:
    """Return (loss flow, gain flow): mean score lost and mean score gained; nan for no samples.

    Score change = gain - loss exactly, whatever the scores. With scores of 0 and 1 they are NDR and PFR.

    >>> flows(outcomes_of([]))
    (nan, nan)
    """
    if not len(outcomes):
        return float("nan"), float("nan")
    change = outcomes.accelerated_score - outcomes.original_score
    return float(np.maximum(0, -change).mean()), float(np.maximum(0, change).mean())


def check_identities(
    *,
    n: int,
    counts: FlipCounts,
    right_change: float,
    score_change: float,
    loss_flow: float,
    gain_flow: float,
    tolerance: float = 1e-12,
) -> None:
    """Verify what must hold for any two runs; does nothing for n = 0.

    The cells sum to n; change of accuracy = PFR - NDR; change of score = gain flow - loss flow; NDR <= DR.

    Raises:
        RunError: when one does not hold: then the join or the grading inside steadyvlm is wrong.

    >>> check_identities(n=1, counts=FlipCounts(1, 0, 0, 0, 0, 0), right_change=-1.0, score_change=-1.0,
    ...                  loss_flow=1.0, gain_flow=0.0)
    """
    if n == 0:
        return
    claims = {
        "the flip table sums to n": counts.n == n,
        "accuracy change = PFR - NDR": abs(right_change - (counts.wrong_to_right - counts.right_to_wrong) / n)
        <= tolerance,
        "score change = gain - loss": abs(score_change - (gain_flow - loss_flow)) <= tolerance,
    }
    broken = [claim for claim, holds in claims.items() if not holds]
    if broken:
        raise RunError(f"an identity of the comparison does not hold: {'; '.join(broken)}. Please report this.")
