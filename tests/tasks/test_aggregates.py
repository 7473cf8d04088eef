"""Scores of whole runs, computed by hand."""

from __future__ import annotations

import functools
import operator
import random
from dataclasses import replace
from fractions import Fraction

import pytest

from steadyvlm.errors import SampleError
from steadyvlm.records import UNPARSED, AnswerKind, Failure, Prediction
from steadyvlm.tasks.aggregates import (
    YesNoScore,
    circular_score,
    pair_score,
    pope_score,
    soft_mean,
    yes_no_score,
)

LOST = Failure("ImageError", "gone")


def prediction(
    name: str,
    *,
    kind: AnswerKind = "yes_no",
    gold: str | tuple[str, ...] = "yes",
    answer: str = "yes",
    score: float | None = None,
    family: str = "",
    group: str = "",
    cluster: str = "",
    failure: Failure | None = None,
) -> Prediction:
    references = (gold,) if isinstance(gold, str) else gold
    return Prediction(
        sample_id=name,
        task="t",
        kind=kind,
        question="?",
        prompt_sha256="",
        image_sha256=(),
        references=references,
        choices=(),
        cluster=cluster,
        family=family,
        text=answer,
        answer=answer,
        score=float(answer == gold) if score is None else score,
        group=group,
        failure=failure,
    )


def yes_no_run(counts: dict[tuple[str, str], int], family: str = "") -> list[Prediction]:
    return [
        prediction(f"{family}{gold}{answer}{i}", gold=gold, answer=answer, family=family)
        for (gold, answer), count in counts.items()
        for i in range(count)
    ]


def test_unparsed_answers_stay_in_every_denominator_and_failures_in_none() -> None:
    run = yes_no_run({("yes", "yes"): 4, ("yes", "no"): 1, ("yes", UNPARSED): 3, ("no", "no"): 5, ("no", "yes"): 2})
    run += [prediction("u", gold=" No ", answer=UNPARSED), prediction("f", failure=LOST)]
    score = yes_no_score(run)
    assert score == YesNoScore(tp=4, fp=2, tn=5, fn=1, unparsed_yes=3, unparsed_no=1, failed=1)
    assert score.n == 16
    assert (score.accuracy, score.precision, score.recall) == (9 / 16, 4 / 6, 4 / 8)
    assert score.f1 == pytest.approx(2 * (4 / 6) * (4 / 8) / (4 / 6 + 4 / 8))
    assert score.yes_ratio == 6 / 16  # predicted yes; gold yes is 8 of 16


def test_ratios_without_denominator_are_none() -> None:
    none = yes_no_score([])
    assert [none.accuracy, none.precision, none.recall, none.f1, none.yes_ratio] == [None] * 5
    never_yes = yes_no_score(yes_no_run({("yes", "no"): 2}))
    assert (never_yes.precision, never_yes.recall, never_yes.f1) == (None, 0.0, 0.0)


def test_only_yes_no_questions_are_counted() -> None:
    with pytest.raises(SampleError, match="'x' has the reference 'red'; give yes/no questions only"):
        yes_no_score([prediction("x", gold="Red")])


def test_pope_tells_the_mean_of_f1_from_the_pooled_f1() -> None:
    run = yes_no_run({("yes", "yes"): 3, ("no", "yes"): 1}, "random")
    run += yes_no_run({("yes", "yes"): 1, ("yes", "no"): 3, ("no", "no"): 4}, "popular")
    score = pope_score(run)
    assert list(score.by_category) == ["popular", "random"]
    assert (score.by_category["random"].f1, score.by_category["popular"].f1) == (6 / 7, 2 / 5)
    assert score.mean_f1 == pytest.approx((6 / 7 + 2 / 5) / 2)
    assert score.pooled.f1 == 8 / 12
    undefined = pope_score([*run, *yes_no_run({("no", "no"): 1}, "adversarial")])
    assert undefined.by_category["adversarial"].f1 is None
    assert undefined.mean_f1 is None
    assert pope_score([]).mean_f1 is None


def rotations(name: str, rights: str) -> list[Prediction]:
    return [
        prediction(f"{name}{1_000_000 * i if i else ''}", kind="choice", score=float(right), group=name)
        for i, right in enumerate(map(int, rights))
    ]


def test_worked_example_of_four_rotations_with_three_right() -> None:
    score = circular_score(rotations("q", "1110"))
    assert (score.row, score.circular, score.vanilla) == (0.75, 0.0, 1.0)
    assert (score.rows, score.questions, score.incomplete, score.failed) == (4, 1, 0, 0)


def test_vanilla_takes_the_first_rotation_whatever_the_order() -> None:
    run = [
        prediction(name, kind="choice", score=float(name == "9"), group="g")
        for name in ("9", "1000009", "2000009", "10")
    ]
    for seed in range(5):
        mixed = random.Random(seed).sample(run, len(run))
        assert circular_score(mixed).vanilla == 1.0
        assert circular_score(mixed).row == 0.25
    assert circular_score(run[1:]).vanilla == 0.0


def test_questions_without_group_are_their_own_and_groups_do_not_mix() -> None:
    run = [*rotations("p", "11"), *rotations("q", "10"), prediction("a", score=1.0), prediction("b", score=0.0)]
    score = circular_score(run)
    assert (score.row, score.vanilla, score.circular) == (4 / 6, 3 / 4, 2 / 4)


def test_a_rotation_without_answer_makes_its_question_incomplete() -> None:
    run = [*rotations("p", "11"), *rotations("q", "11")]
    run[0] = replace(run[0], failure=LOST, score=0.0)
    score = circular_score(run)
    assert (score.row, score.vanilla, score.circular) == (1.0, 1.0, 1.0)
    assert (score.rows, score.questions, score.incomplete, score.failed) == (3, 1, 1, 1)
    assert circular_score([]).circular is None


def test_the_mean_of_soft_scores_is_exact() -> None:
    run = [prediction(str(i), kind="open_ten", gold=("x",) * 10, score=0.3) for i in range(10)]
    assert soft_mean(run) == Fraction(3, 10)
    assert functools.reduce(operator.add, (item.score for item in run)) / 10 != 0.3  # a naive sum is not
    thirds = prediction("t", kind="open_ten", gold=("x",) * 4, score=1 / 3)
    assert soft_mean([thirds, run[0]]) == (Fraction(1, 3) + Fraction(3, 10)) / 2
    assert soft_mean([run[0], replace(run[1], failure=LOST, score=0.0)]) == Fraction(3, 10)
    assert soft_mean([]) is None


def test_worked_example_of_pairs() -> None:
    run = [
        prediction(f"{image}{i}", cluster=image, score=float(right))
        for image, i, right in [("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("b", 1, 0)]
    ]
    score = pair_score(run)
    assert (score.accuracy, score.accuracy_plus, score.score) == (75.0, 50.0, 125.0)


def test_an_image_with_one_answer_is_kept_out_of_the_pairs_and_counted() -> None:
    run = [prediction(f"{image}{i}", cluster=image, score=1.0) for image, i in [("a", 0), ("a", 1), ("b", 0)]]
    score = pair_score([*run, prediction("b1", cluster="b", failure=LOST)])
    assert (score.accuracy, score.accuracy_plus) == (100.0, 100.0)
    assert (score.images, score.unpaired, score.failed) == (1, 1, 1)
    assert pair_score(run[2:]).score is None
    assert pair_score([]).score is None
