"""Which interval is used when, and that it is the right one."""

from __future__ import annotations

import numpy as np
import pytest

from steadyvlm.stability.clusters import bootstrap_mean
from steadyvlm.stability.differences import difference, share
from steadyvlm.stability.intervals import newcombe_paired, wilson


def columns(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = (both, first, second, neither)
    return np.repeat([1.0, 1.0, 0.0, 0.0], sizes), np.repeat([1.0, 0.0, 1.0, 0.0], sizes)


def test_a_share_without_shared_images_is_plain_wilson() -> None:
    found = share(np.arange(50) < 7, np.arange(50), alpha=0.1)
    expected = wilson(7, 50, alpha=0.1)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert (found.numerator, found.denominator, found.n_eff, found.method) == (7, 50, 50, "wilson")
    assert found.level == 0.9


def test_a_share_with_shared_images_says_so_and_is_wider() -> None:
    found = share(np.arange(60) < 12, np.repeat(np.arange(10), 6), alpha=0.05)
    plain = wilson(12, 60)
    assert found.method == "wilson, n_eff"
    assert found.n_eff < 60
    assert found.low < plain.low < found.value < plain.high < found.high


def test_a_share_of_nothing() -> None:
    found = share(np.array([], dtype=bool), np.array([], dtype=np.int64), alpha=0.05)
    assert np.isnan(found.value)
    assert (found.low, found.high, found.denominator) == (0, 1, 0)


def test_right_and_wrong_without_shared_images_use_newcombe_even_when_much_changed() -> None:
    first, second = columns(300, 80, 40, 80)
    found = difference(first, second, np.arange(500), alpha=0.05, seed=0)
    expected = newcombe_paired(300, 80, 40, 80)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.value, found.method, found.resamples) == (pytest.approx(0.08), "newcombe-10", 0)


def test_shared_images_are_resampled_once_thirty_of_them_moved() -> None:
    first, second = columns(300, 80, 40, 180)
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(200), 3))
    found = difference(first, second, codes, alpha=0.05, seed=4)
    expected = bootstrap_mean(first - second, codes, seed=4)
    assert (found.low, found.high) == (expected.interval.low, expected.interval.high)
    assert (found.method, found.resamples, found.n_clusters) == ("image bootstrap", 5000, 200)


def test_with_fewer_moved_images_newcombe_shrinks_to_the_effective_size() -> None:
    first, second = columns(400, 60, 0, 140)  # 60 changes within 20 images
    found = difference(first, second, np.repeat(np.arange(200), 3), alpha=0.05, seed=0)
    plain = newcombe_paired(400, 60, 0, 140)
    assert found.method == "newcombe-10, n_eff"
    assert found.low < plain.low < 0.1 < plain.high < found.high


def test_soft_scores_with_few_changes_get_a_conservative_interval_not_a_point() -> None:
    first = np.full(100, 0.6)
    found = difference(first, first, np.arange(100), alpha=0.05, seed=0)
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.method == "newcombe-10"


def test_soft_scores_with_many_changes_are_resampled() -> None:
    first = np.tile([0.3, 0.9], 50)
    found = difference(first, np.full(100, 0.6), np.arange(100), alpha=0.05, seed=0)
    assert found.method == "image bootstrap"
    assert found.low == pytest.approx(-0.06, abs=0.02)  # 1.96 * 0.3 / sqrt(100)
    assert found.high == pytest.approx(0.06, abs=0.02)


def test_no_samples() -> None:
    found = difference(np.array([]), np.array([]), np.array([], dtype=np.int64), alpha=0.05, seed=0)
    assert np.isnan(found.value)
    assert (found.low, found.high, found.n) == (-1, 1, 0)
