"""Clusters: standard errors by hand, the bootstrap against exact answers, coverage in simulation."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom
from scipy.stats import t as student

from steadyvlm.stability.clusters import (
    bootstrap_mean,
    cluster_codes,
    cluster_standard_error,
    effective_n,
    renumber,
)
from steadyvlm.stability.differences import difference, share


def correlated(generator: np.random.Generator, clusters: int, size: int, rate: float, icc: float) -> np.ndarray:
    """Draw beta-binomial events: [clusters * size] bool with the given intra-cluster correlation."""
    scale = (1 - icc) / icc
    chance = generator.beta(rate * scale, (1 - rate) * scale, clusters)
    return generator.random(clusters * size) < np.repeat(chance, size)


def test_standard_error_by_hand() -> None:
    # mean 0.5; residual sums per cluster are 0.5+0.5, -0.5, -0.5; SE^2 = 3/2 * (1 + 0.25 + 0.25) / 16
    values, codes = np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 2])
    assert cluster_standard_error(values, codes) == pytest.approx((1.5 * 1.5 / 16) ** 0.5)


def test_one_cluster_has_no_standard_error_and_is_worth_one_sample() -> None:
    values, codes = np.array([1.0, 0.0, 1.0]), np.zeros(3, dtype=np.int64)
    assert np.isnan(cluster_standard_error(values, codes))
    assert effective_n(values, codes) == 1
    assert np.isnan(cluster_standard_error(np.array([]), np.array([], dtype=np.int64)))


def test_without_shared_images_every_sample_counts() -> None:
    assert effective_n(np.array([1.0, 0.0, 0.0]), np.arange(3)) == 3


def test_effective_n_by_hand() -> None:
    # Four images with two equal answers each: variance/N = 0.25/8, SE^2 = 4/3 * 4 * 1 / 64, design effect 8/3;
    # few images: (t(7)/t(3))^2 at 97.5 %.
    values, codes = np.repeat([1.0, 1.0, 0.0, 0.0], 2), np.repeat(np.arange(4), 2)
    few = (student.ppf(0.975, 7) / student.ppf(0.975, 3)) ** 2
    assert effective_n(values, codes) == pytest.approx(8 / (8 / 3) * few)


def test_no_event_means_no_correlation_to_estimate() -> None:
    values, codes = np.zeros(3000), np.repeat(np.arange(500), 6)
    assert effective_n(values, codes) == pytest.approx(3000, rel=0.005)


def test_opposite_answers_within_an_image_never_add_samples() -> None:
    values, codes = np.tile([1.0, 0.0], 50), np.repeat(np.arange(50), 2)
    assert effective_n(values, codes) <= 100


def test_renumber_closes_gaps() -> None:
    assert renumber(np.array([7, 3, 7])).tolist() == [1, 0, 1]
    assert renumber(np.array([], dtype=np.int64)).tolist() == []


def test_codes_follow_first_appearance() -> None:
    assert cluster_codes([("b",), ("a",), ("b",)]).tolist() == [0, 1, 0]


def test_the_bootstrap_of_independent_events_is_binomial() -> None:
    # 40 events among 200 samples without shared images: the resampled count is exactly Binomial(200, 0.2).
    values = np.repeat([1.0, 0.0], [40, 160])
    found = bootstrap_mean(values, np.arange(200), resamples=20_000).interval
    exact = binom.ppf([0.025, 0.975], 200, 0.2) / 200
    assert (found.low, found.high) == pytest.approx(tuple(exact), abs=1 / 200)


@pytest.mark.parametrize("unequal", [False, True])
def test_both_ways_of_drawing_agree(monkeypatch: pytest.MonkeyPatch, unequal: bool) -> None:
    generator = np.random.default_rng(5)
    codes = np.sort(generator.integers(300, size=900)) if unequal else np.repeat(np.arange(300), 3)
    codes = renumber(codes)
    values = (generator.random(900) < 0.2).astype(np.float64)
    by_type = bootstrap_mean(values, codes, resamples=20_000).interval
    monkeypatch.setattr("steadyvlm.stability.clusters._TYPE_COST", 1e9)
    by_cluster = bootstrap_mean(values, codes, resamples=20_000).interval
    width = by_type.high - by_type.low
    assert (by_cluster.low, by_cluster.high) == pytest.approx((by_type.low, by_type.high), abs=0.04 * width)
    assert by_type.low < values.mean() < by_type.high


def test_the_bootstrap_depends_on_the_data_and_the_seed_not_on_the_order() -> None:
    generator = np.random.default_rng(3)
    values, codes = generator.random(600).round(1), np.repeat(np.arange(100), 6)
    order = generator.permutation(600)
    first = bootstrap_mean(values, codes)
    assert bootstrap_mean(values[order], codes[order]) == first
    assert bootstrap_mean(values, codes, seed=1) != first
    assert first.resamples == 5000


def test_few_draws_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(3)
    values, codes = generator.random(60), np.repeat(np.arange(20), 3)
    whole = bootstrap_mean(values, codes, resamples=700)
    monkeypatch.setattr("steadyvlm.stability.clusters._CHUNK_CELLS", 40)
    assert bootstrap_mean(values, codes, resamples=700) == whole


def test_a_hundred_thousand_resampled_images_stay_small_in_memory() -> None:
    # types of clusters are few, so 5,000 resamples of many images need no large array
    generator = np.random.default_rng(0)
    values, codes = (generator.random(300_000) < 0.1).astype(float), np.repeat(np.arange(100_000), 3)
    tracemalloc.start()
    bootstrap_mean(values, codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000


def test_shares_keep_their_coverage_when_answers_about_one_image_agree() -> None:
    # acceptance check 8: at least 92 % at an intra-image correlation of 0.4, where ignoring images covers 73 %
    generator, codes = np.random.default_rng(11), np.repeat(np.arange(400), 6)
    naive = covered = 0
    for _ in range(400):
        events = correlated(generator, 400, 6, 0.06, 0.4)
        found = share(events, codes, alpha=0.05)
        covered += found.low <= 0.06 <= found.high
        ignoring = share(events, np.arange(2400), alpha=0.05)
        naive += ignoring.low <= 0.06 <= ignoring.high
    assert covered / 400 >= 0.92
    assert naive / 400 < 0.85


@pytest.mark.parametrize("clusters", [60, 250])
def test_differences_keep_their_coverage_when_answers_about_one_image_agree(clusters: int) -> None:
    generator, codes = np.random.default_rng(clusters), np.repeat(np.arange(clusters), 6)
    methods, covered = set(), 0
    for _ in range(200):
        lost = correlated(generator, clusters, 6, 0.05, 0.4)
        gained = correlated(generator, clusters, 6, 0.03, 0.4)
        right = generator.random(clusters * 6) < 0.5
        still = np.where(right, ~lost, gained)
        found = difference(still.astype(float), right.astype(float), codes, alpha=0.05, seed=0)
        methods.add(found.method)
        covered += found.low <= 0.5 * 0.03 - 0.5 * 0.05 <= found.high
    assert covered / 200 >= 0.92
    assert methods <= {"newcombe-10, n_eff", "image bootstrap"}
