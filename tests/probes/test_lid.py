from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.errors import InvalidOption
from steadyvlm.probes.lid import disruption

TABLES = st.integers(1, 6).flatmap(
    lambda layers: st.lists(
        st.lists(st.floats(0, 1), min_size=layers, max_size=layers), min_size=2, max_size=10
    ).filter(lambda rows: len(rows) % 2 == 0)
)


@given(rows=TABLES)
def test_it_is_a_distance_and_layers_sum_to_it(rows: list[list[float]]) -> None:
    half = len(rows) // 2
    first, second = rows[:half], rows[half:]
    found, back = disruption(first, second), disruption(second, first)
    np.testing.assert_array_equal(found.values, back.values)
    assert (found.values >= 0).all()
    assert disruption(first, first).values.max() == 0
    assert found.per_layer.sum() == pytest.approx(found.values.mean())
    assert found.of_means <= found.values.mean() + 1e-12


def test_by_hand() -> None:
    found = disruption([[0.2, 0.5, 0.3]], [[0.5, 0.25, 0.3]])
    assert found.values.tolist() == pytest.approx([0.55])
    assert found.per_layer.tolist() == pytest.approx([0.3, 0.25, 0.0])


@pytest.mark.parametrize(
    ("first", "second"), [([[1.0]], [[1.0], [1.0]]), ([1.0], [1.0]), (np.empty((0, 3)), np.empty((0, 3)))]
)
def test_tables_that_do_not_match_are_refused(first: object, second: object) -> None:
    with pytest.raises(InvalidOption, match="samples by layers"):
        disruption(first, second)  # type: ignore[arg-type]  # wrong on purpose
