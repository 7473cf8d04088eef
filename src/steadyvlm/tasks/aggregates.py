"""Scores of a whole run that are more than a mean: yes/no, rotated choices, soft scores, question pairs.

All take predictions in any order. Predictions with a failure are left out and counted, never scored as wrong answers
in silence; unparsed answers are wrong answers and stay in every denominator. A ratio without a denominator is None.

Source: POPE (Li et al., 2023, arXiv:2305.10355); MMBench's circular evaluation (Liu et al., 2023, arXiv:2307.06281);
MME (Fu et al., 2023, arXiv:2306.13394).
Differs: a yes ratio counts predicted yes, where one public tool counts gold yes and always finds 0.5; an unparsed
answer to a yes question lowers recall, where that tool drops it; an MME image with one answer is kept out of the pair
accuracy and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from steadyvlm.errors import SampleError
from steadyvlm.records import Prediction
from steadyvlm.tasks.scorers import yes_no_gold


@dataclass(frozen=True, slots=True)
class YesNoScore:
    """Confusion counts of yes/no questions, yes being the positive class, and the ratios made from them.

    Attributes:
        tp, fp, tn, fn: answered yes or no, rightly or wrongly.
        unparsed_yes, unparsed_no: neither, where yes (no) was right.
        failed: no answer at all; in no other number.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    unparsed_yes: int = 0
    unparsed_no: int = 0
    failed: int = 0

    @property
    def n(self) -> int:
        """Answered questions, unparsed ones included."""
        return self.tp + self.fp + self.tn + self.fn + self.unparsed_yes + self.unparsed_no

    @property
    def accuracy(self) -> float | None:
        """Right answers of all answers."""
        return _ratio(self.tp + self.tn, self.n)

    @property
    def precision(self) -> float | None:
        """Right among answered yes."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Answered yes among those where yes was right."""
        return _ratio(self.tp, self.tp + self.fn + self.unparsed_yes)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn + self.unparsed_yes)

    @property
    def yes_ratio(self) -> float | None:
        """Answered yes of all answers."""
        return _ratio(self.tp + self.fp, self.n)


@dataclass(frozen=True, slots=True)
class PopeScore:
    """POPE's numbers: one score per category, all questions pooled, and the mean of the categories' F1.

    The two F1 are different numbers, since F1 is no mean: name the one you report.
    """

    by_category: Mapping[str, YesNoScore]
    pooled: YesNoScore

    @property
    def mean_f1(self) -> float | None:
        """Mean of the categories' F1; None if one of them is undefined."""
        values = [score.f1 for score in self.by_category.values()]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class CircularScore:
    """Three accuracies of choice questions asked with rotated options.

    Attributes:
        row: right rows of all rows.
        vanilla: right rows among the first rotation of each question.
        circular: questions of which every rotation is right, of all questions.
        rows, questions: denominators.
        incomplete: questions left out of `circular` because a rotation has no answer; `vanilla` likewise leaves out
            a first rotation without answer.
        failed: rows without an answer.
    """

    row: float | None
    vanilla: float | None
    circular: float | None
    rows: int
    questions: int
    incomplete: int
    failed: int


@dataclass(frozen=True, slots=True)
class PairScore:
    """MME's numbers of one category, in percent: per answer, per image with both answers right, and their sum.

    Attributes:
        accuracy: right answers of all answers.
        accuracy_plus: images with both answers right, of images with exactly two answers.
        images: denominator of `accuracy_plus`.
        unpaired: images left out of it.
        failed: questions without an answer.
    """

    accuracy: float | None
    accuracy_plus: float | None
    images: int
    unpaired: int
    failed: int

    @property
    def score(self) -> float | None:
        """Sum of the two, at most 200."""
        return None if self.accuracy is None or self.accuracy_plus is None else self.accuracy + self.accuracy_plus


def yes_no_score(predictions: Iterable[Prediction]) -> YesNoScore:
    """Return the confusion counts of yes/no predictions.

    Raises:
        SampleError: if a reference is neither yes nor no.
    """
    counts = dict.fromkeys(("tp", "fp", "tn", "fn", "unparsed_yes", "unparsed_no", "failed"), 0)
    for prediction in predictions:
        gold = yes_no_gold(prediction.references[0])
        if gold not in ("yes", "no"):
            raise SampleError(f"'{prediction.sample_id}' has the reference {gold[:80]!r}; give yes/no questions only.")
        if prediction.failure is not None:
            counts["failed"] += 1
        elif prediction.answer == "yes":
            counts["tp" if gold == "yes" else "fp"] += 1
        elif prediction.answer == "no":
            counts["tn" if gold == "no" else "fn"] += 1
        else:
            counts[f"unparsed_{gold}"] += 1
    return YesNoScore(**counts)


def pope_score(predictions: Sequence[Prediction]) -> PopeScore:
    """Return POPE's numbers; the category is the prediction's family."""
    categories = sorted({prediction.family for prediction in predictions})
    by_category = {
        category: yes_no_score(item for item in predictions if item.family == category) for category in categories
    }
    return PopeScore(by_category, yes_no_score(predictions))


def circular_score(predictions: Sequence[Prediction]) -> CircularScore:
    """Return row, vanilla and circular accuracy of choice predictions.

    Rotations share `group`; a row without group is a question of one rotation. The first rotation is the one with the
    smallest id, digits compared as numbers (MMBench: the index below a million).
    """
    groups: dict[str, list[Prediction]] = {}
    for prediction in sorted(predictions, key=lambda item: _natural(item.sample_id)):
        groups.setdefault(prediction.group or f"\0{prediction.sample_id}", []).append(prediction)
    answered = [item for item in predictions if item.failure is None]
    first = [rows[0] for rows in groups.values() if rows[0].failure is None]
    complete = [rows for rows in groups.values() if all(item.failure is None for item in rows)]
    return CircularScore(
        row=_ratio(sum(map(_right, answered)), len(answered)),
        vanilla=_ratio(sum(map(_right, first)), len(first)),
        circular=_ratio(sum(all(map(_right, rows)) for rows in complete), len(complete)),
        rows=len(answered),
        questions=len(complete),
        incomplete=len(groups) - len(complete),
        failed=len(predictions) - len(answered),
    )


def soft_mean(predictions: Iterable[Prediction]) -> Fraction | None:
    """Return the exact mean of soft scores; None without an answered question.

    A soft score over n annotators is a whole number of 1/(3n); it is recovered exactly from the stored float, so that
    the mean does not depend on the order of summation.
    """
    exact = [
        Fraction(item.score).limit_denominator(3 * len(item.references)) for item in predictions if item.failure is None
    ]
    return sum(exact, Fraction(0)) / len(exact) if exact else None


def pair_score(predictions: Iterable[Prediction]) -> PairScore:
    """Return MME's numbers of one category; the image is the prediction's cluster."""
    answered: dict[str, list[bool]] = {}
    failed = 0
    for prediction in predictions:
        if prediction.failure is None:
            answered.setdefault(prediction.cluster, []).append(_right(prediction))
        else:
            failed += 1
    rows = [right for rights in answered.values() for right in rights]
    pairs = [rights for rights in answered.values() if len(rights) == 2]
    return PairScore(
        accuracy=_percent(sum(rows), len(rows)),
        accuracy_plus=_percent(sum(map(all, pairs)), len(pairs)),
        images=len(pairs),
        unpaired=len(answered) - len(pairs),
        failed=failed,
    )


def _right(prediction: Prediction) -> bool:
    return prediction.score == 1.0


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    parts = re.split(r"([0-9]{1,18})", text)  # text and digits in turn
    return tuple((int(part) if index % 2 else -1, part) for index, part in enumerate(parts))
