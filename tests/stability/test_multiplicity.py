"""Adjusted p-values by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption
from steadyvlm.stability.multiplicity import benjamini_hochberg, holm

# by hand: sorted 0.005, 0.01, 0.03, 0.04; Holm x4, x3, x2, x1, never falling; BH x4/1, x4/2, x4/3, x4/4 from above
P_VALUES = {"fastv": 0.01, "rtn": 0.04, "visionzip": 0.03, "random": 0.005}


def test_holm_by_hand() -> None:
    found = holm(P_VALUES)
    assert list(found) == list(P_VALUES)
    expected = {"fastv": 0.03, "rtn": 0.06, "visionzip": 0.06, "random": 0.02}
    assert {name: item.adjusted for name, item in found.items()} == pytest.approx(expected)
    assert {name for name, item in found.items() if item.rejected} == {"fastv", "random"}
    assert found["rtn"].p == 0.04


def test_benjamini_hochberg_by_hand() -> None:
    found = benjamini_hochberg(P_VALUES, q=0.03)
    expected = {"fastv": 0.02, "rtn": 0.04, "visionzip": 0.04, "random": 0.02}
    assert {name: item.adjusted for name, item in found.items()} == pytest.approx(expected)
    assert {name for name, item in found.items() if item.rejected} == {"fastv", "random"}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_adjusting_never_lowers_a_p_value_and_holm_is_the_stricter(p_values: dict[str, float]) -> None:
    strict, loose = holm(p_values), benjamini_hochberg(p_values)
    for name, p in p_values.items():
        assert p - 1e-12 <= loose[name].adjusted <= strict[name].adjusted + 1e-12
        assert strict[name].adjusted <= 1


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_p_values_lie_between_0_and_1(adjust, bad: float) -> None:
    with pytest.raises(InvalidOption, match="p-value of 'fastv'"):
        adjust({"fastv": bad})
