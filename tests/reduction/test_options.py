from __future__ import annotations

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.options import checked_count, checked_flag, checked_layer, checked_number, checked_ratio


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan"), float("inf"), True, "0.5", None])
def test_a_ratio_outside_zero_to_one_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"fastv: keep_ratio=.*from 0 .* to 1"):
        checked_ratio("fastv", "keep_ratio", value)


@pytest.mark.parametrize("value", [0, 0.0, 1, 0.37])
def test_a_ratio_is_returned_as_a_float(value: float) -> None:
    ratio = checked_ratio("fastv", "keep_ratio", value)
    assert ratio == value
    assert isinstance(ratio, float)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_a_count_must_be_a_whole_number_of_at_least_the_minimum(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"fastv: layer=.*whole number of at least 1"):
        checked_count("fastv", "layer", value, minimum=1)


def test_a_layer_the_model_lacks_is_refused_with_the_layers_it_has() -> None:
    assert checked_layer("fastv", 11, 12) == 11
    with pytest.raises(InvalidOption, match=r"layer=12 .* 12 layers \(0 to 11\)"):
        checked_layer("fastv", 12, 12)


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), True, "1", None])
def test_a_number_must_be_finite_and_at_least_the_minimum(value: object) -> None:
    assert checked_number("sparsevlm", "scale", 0, minimum=0) == 0.0
    with pytest.raises(InvalidOption, match=r"sparsevlm: scale=.*number of at least 0"):
        checked_number("sparsevlm", "scale", value, minimum=0)


@pytest.mark.parametrize("value", [0, 1, "True", None])
def test_a_flag_is_true_or_false_and_nothing_like_it(value: object) -> None:
    assert checked_flag("vtw", "reindex", False) is False
    with pytest.raises(InvalidOption, match=r"vtw: reindex=.*True or False"):
        checked_flag("vtw", "reindex", value)
