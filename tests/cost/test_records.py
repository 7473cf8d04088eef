from __future__ import annotations

from dataclasses import replace

import pytest

from steadyvlm.cost import Counts, cost_of, count, counts_of, published
from steadyvlm.cost.scoring import Scoring
from steadyvlm.errors import InvalidOption
from steadyvlm.records import Cost, Generation, Prediction

LLAVA = published("llava-1.5-7b")
COST = Cost(1.0, 636, 2, (576,) * 3 + (288,) * 29, 0, text_tokens=60, image_grids=((1, 24, 24),), connector_tokens=576)
ANSWER = Generation("red", (5, 2), "eos", (), 0.0, (), COST)
PREDICTION = Prediction("a", "t", "open", "q", "", (), (), (), "", "", "red", "red", 1.0, generation=ANSWER)


def test_a_record_holds_all_that_its_bill_needs() -> None:
    found = counts_of(PREDICTION, [Scoring("rows", 7)])
    assert found == Counts((576,) * 3 + (288,) * 29, 60, ((1, 24, 24),), 576, 2, (Scoring("rows", 7),), original=576)
    bill = cost_of(PREDICTION, LLAVA, scoring=[Scoring("rows", 7)])
    assert bill == count(found, LLAVA) == cost_of(ANSWER, LLAVA, scoring=[Scoring("rows", 7)])
    assert bill.scoring[0].macs == 7


def test_a_text_only_prompt_is_no_old_record() -> None:
    bill = cost_of(replace(COST, prompt_tokens=20, text_tokens=20, image_grids=(), connector_tokens=0), LLAVA)
    assert bill.vision == 0


def test_records_of_an_earlier_version_are_refused() -> None:
    old = replace(COST, text_tokens=0, image_grids=(), connector_tokens=0)
    with pytest.raises(InvalidOption, match="earlier version"):
        cost_of(old, LLAVA)


def test_answers_that_are_not_ours_are_refused() -> None:
    with pytest.raises(InvalidOption, match="sample 'a' has no counts"):
        cost_of(replace(PREDICTION, generation=None), LLAVA)
