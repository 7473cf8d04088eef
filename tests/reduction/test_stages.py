from __future__ import annotations

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Signals
from steadyvlm.reduction.stages import (
    checked_budgets,
    checked_layers,
    checked_outputs,
    checked_ratios,
    stage_budget,
)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([8, 8], "each named once"),
        ([16, 8], "first layer to the last"),
        ([], "not a list"),
        (8, "for one stage as in"),
        ("8", "not a list"),
        ([-1], "at least 0"),
        ([True, 2], "at least 0"),
        ([2.0], "at least 0"),
    ],
)
def test_layers_must_ascend(value: object, reason: str) -> None:
    with pytest.raises(InvalidOption, match=f"m: layers=.*{reason}"):
        checked_layers("m", "layers", value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([0.5], "1 values for 2 layers"),
        ([0.25, 0.5], "do not grow"),
        ([0.5, 1.5], "fraction to keep"),
        (0.5, "not a list"),
    ],
)
def test_ratios_must_not_grow_and_be_one_per_stage(value: object, reason: str) -> None:
    with pytest.raises(InvalidOption, match=f"m: ratios=.*{reason}"):
        checked_ratios("m", "ratios", value, stages=2)


@pytest.mark.parametrize(
    "value", [[300, 0.5], [1.0, 0.5], [True, 1], [-1, -2], [float("nan"), 0.1], ["a", "b"], [0.5, -0.1]]
)
def test_budgets_are_all_counts_or_all_shares(value: object) -> None:
    with pytest.raises(InvalidOption, match="one kind of budget"):
        checked_budgets("m", "keep", value, stages=2)


def test_budgets_must_not_grow_and_be_one_per_stage() -> None:
    assert checked_budgets("m", "keep", [5, 5], stages=2) == (5, 5)
    assert checked_budgets("m", "keep", (0.5, 0.0), stages=2) == (0.5, 0.0)
    with pytest.raises(InvalidOption, match="do not grow"):
        checked_budgets("m", "keep", [5, 6], stages=2)
    with pytest.raises(InvalidOption, match="3 values for 2 layers"):
        checked_budgets("m", "keep", [5, 4, 3], stages=2)


def test_lists_become_tuples_that_can_be_hashed() -> None:
    assert checked_layers("m", "layers", [0, 3]) == (0, 3)
    assert checked_ratios("m", "ratios", [1, 0], stages=2) == (1.0, 0.0)
    assert all(isinstance(ratio, float) for ratio in checked_ratios("m", "ratios", [1, 0], stages=2))


def test_an_output_that_no_layer_reads_is_refused() -> None:
    assert checked_outputs("m", (2, 10), 12) == (3, 11)
    with pytest.raises(InvalidOption, match=r"output of layer 11, .* 12 layers \(0 to 11\).* below 11"):
        checked_outputs("m", (2, 11), 12)


@pytest.mark.parametrize(
    ("budget", "compat", "kept"),
    [
        (300, False, 40),
        (40, False, 40),
        (40, True, 39),
        (39, True, 39),
        (0, True, 0),
        (0.5, False, 40),
        (0.25, False, 22),
    ],
)
def test_a_budget_counts_tokens_or_a_share_of_the_original(budget: int | float, compat: bool, kept: int) -> None:
    assert stage_budget(budget, Signals(40, original_tokens=90), compat=compat) == kept
