from __future__ import annotations

import math

import numpy as np
import pytest

from steadyvlm.errors import InvalidOption, RunError
from steadyvlm.probes.kl import kl_divergence


def reference(first: np.ndarray, second: np.ndarray) -> float:
    """Section 9 of the specification, term by term."""
    ours, theirs = sum(map(math.exp, first)), sum(map(math.exp, second))
    p, q = [math.exp(x) / ours for x in first], [math.exp(x) / theirs for x in second]
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("size", [1, 2, 30, 500])
def test_it_agrees_with_the_plain_formula(size: int) -> None:
    rng = np.random.default_rng(size)
    first, second = rng.normal(size=(3, size)), rng.normal(size=(3, size))
    expected = [reference(a, b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(kl_divergence(first, second), expected, rtol=1e-10, atol=1e-15)


def test_by_hand_in_nats_and_in_this_direction() -> None:
    # (3/4, 1/4) against (1/2, 1/2)
    value = float(kl_divergence([math.log(3), 0.0], [0.0, 0.0]))
    assert value == pytest.approx(math.log(2) - (2 * math.log(2) - 0.75 * math.log(3)), abs=1e-12)
    assert value != pytest.approx(float(kl_divergence([0.0, 0.0], [math.log(3), 0.0])), abs=1e-3)


def test_shifts_do_not_matter_and_large_logits_do_not_overflow() -> None:
    first, second = np.array([1000.0, 999.0]), np.array([-1000.0, -1001.0])
    assert float(kl_divergence(first, second)) == 0.0
    far = float(kl_divergence([0.0, -2000.0], [-2000.0, 0.0]))
    assert far == pytest.approx(2000.0)


def test_it_is_never_negative() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(200, 400))
    assert (kl_divergence(logits, logits + rng.normal(size=(200, 1))) >= 0).all()


def test_no_chance_counts_nothing_or_everything() -> None:
    assert float(kl_divergence([0.0, -np.inf], [0.0, -np.inf])) == 0.0
    assert float(kl_divergence([0.0, -np.inf], [0.0, 0.0])) == pytest.approx(math.log(2))
    assert float(kl_divergence([0.0, 0.0], [0.0, -np.inf])) == math.inf


@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((2, 3), (2, 4)), ((), ()), ((2, 0), (2, 0))])
def test_shapes_that_do_not_match_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(InvalidOption, match="cannot be compared"):
        kl_divergence(np.zeros(shapes[0]), np.zeros(shapes[1]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_distribution_are_refused(bad: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        kl_divergence([0.0, 1.0], [bad, 0.0])
    with pytest.raises(RunError, match="not finite"):
        kl_divergence([-math.inf, -math.inf], [1.0, 0.0])
