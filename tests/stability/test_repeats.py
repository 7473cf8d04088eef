"""Means over calibration seeds, and what may be said of their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from stability.factory import failed, prediction
from steadyvlm.errors import PairingError
from steadyvlm.records import Prediction
from steadyvlm.stability.repeats import Runs, contrast, read_runs, variant


def run(right: Sequence[int], *, per_cluster: int = 1) -> list[Prediction]:
    return [
        prediction(f"q{index:03}", "red" if flag else "blue", cluster=f"image {index // per_cluster}")
        for index, flag in enumerate(right)
    ]


def columns(changed: list[list[int]], *, codes: list[int] | None = None, original: float = 1.0) -> Runs:
    values = np.array(changed, dtype=np.float64)
    numbers = np.arange(values.shape[1]) if codes is None else np.array(codes)
    return Runs(values, values, original - values, np.full(values.shape[1], original), numbers)


def test_values_are_means_over_seeds_and_every_seed_is_kept() -> None:
    original = run([1, 1, 1, 0])
    seeds = [run([1, 0, 1, 0]), run([0, 0, 1, 1])]
    found = variant("v", ("v-s0", "v-s1"), read_runs({"v": [(original, seed) for seed in seeds]})["v"])
    assert found.runs == ("v-s0", "v-s1")
    assert found.changed.per_seed == (0.25, 0.75)
    assert found.changed.value == 0.5
    assert found.broken.per_seed == (0.25, 0.5)
    assert found.score.per_seed == (0.5, 0.5)
    assert found.retained.value == pytest.approx(2 / 3)
    assert found.changed.n == found.changed.n_clusters == 4
    assert 0 <= found.changed.low < 0.5 < found.changed.high <= 1


def test_only_questions_that_all_runs_answered_count() -> None:
    original = run([1, 1, 1])
    holed = [*run([1, 0, 1])[:2], failed("q002", cluster="image 2")]
    runs = read_runs({"a": [(original, run([0, 0, 0]))], "b": [(original, holed)]})
    assert runs["a"].changed.tolist() == [[1, 1]]
    assert runs["b"].changed.tolist() == [[0, 1]]
    with pytest.raises(PairingError, match="no question was answered by the original and all 1 runs of a"):
        read_runs({"a": [([failed("q1")], [prediction("q1")])]})


def test_an_original_that_scores_nothing_retains_nothing() -> None:
    found = variant("v", ("v",), columns([[0, 1]], original=0.0))
    assert math.isnan(found.retained.value)
    assert found.retained.n == 2
    assert not found.retained.decided


def test_the_interval_knows_that_questions_share_pictures() -> None:
    values = [[0] * 50 + [1] * 50]
    alone = variant("v", ("v",), columns(values)).changed
    shared = variant("v", ("v",), columns(values, codes=[index // 10 for index in range(100)])).changed
    assert shared.n_clusters == 10
    assert shared.high - shared.low > 2 * (alone.high - alone.low)


def test_the_interval_of_one_seed_is_the_binomial_one() -> None:
    found = variant("v", ("v",), columns([[1] * 200 + [0] * 800])).changed
    half = 1.96 * math.sqrt(0.2 * 0.8 / 1000)
    assert found.low == pytest.approx(0.2 - half, abs=0.003)
    assert found.high == pytest.approx(0.2 + half, abs=0.003)


def test_seeds_that_disagree_widen_the_interval() -> None:
    agree = variant("v", ("a", "b", "c"), columns([[1, 0] * 100] * 3)).changed
    apart = variant("v", ("a", "b", "c"), columns([[0, 0] * 100, [1, 0] * 100, [1, 1] * 100])).changed
    assert agree.value == apart.value == 0.5
    assert apart.high - apart.low > 3 * (agree.high - agree.low)


def test_runs_calibrated_alike_are_compared_seed_by_seed() -> None:
    noise = np.random.default_rng(0).random((3, 400))
    level = np.array([[0.1], [0.3], [0.5]])
    first = columns((noise < level).astype(int).tolist())
    second = columns((noise < level + 0.1).astype(int).tolist())
    found = contrast("first", "second", {"first": first, "second": second})
    assert found.changed.per_seed == pytest.approx((first.changed - second.changed).mean(axis=1).tolist())
    assert found.changed.value == pytest.approx(np.mean(found.changed.per_seed))
    assert found.changed.decided
    assert found.changed.high < 0
    # The same numbers in another order of seeds share nothing: the seeds' spread then stays in the interval.
    shuffled = columns(second.changed[[1, 2, 0]].astype(int).tolist())
    loose = contrast("first", "second", {"first": first, "second": shuffled})
    assert loose.changed.value == pytest.approx(found.changed.value)
    assert loose.changed.high - loose.changed.low > 2 * (found.changed.high - found.changed.low)


def test_different_numbers_of_seeds_are_drawn_apart() -> None:
    found = contrast("a", "b", {"a": columns([[1, 0, 0, 0], [1, 1, 0, 0]]), "b": columns([[1, 0, 0, 0]])})
    assert found.changed.per_seed == (0.0, 0.25)
    assert found.changed.value == pytest.approx(0.125)
    assert not found.changed.decided


def test_a_variant_does_not_differ_from_itself() -> None:
    runs = {"a": columns([[1, 0, 0], [0, 1, 1]]), "b": columns([[1, 0, 0], [0, 1, 1]])}
    found = contrast("a", "b", runs)
    assert (found.changed.low, found.changed.value, found.changed.high) == (0, 0, 0)


def test_equal_data_give_equal_limits() -> None:
    assert variant("v", ("v",), columns([[1, 0, 1]])) == variant("v", ("v",), columns([[1, 0, 1]]))
    uneven = columns([[1, 0, 1, 0, 0, 0] * 30, [1, 1, 0, 0, 0, 0] * 30], codes=[index // 7 for index in range(180)])
    changed = variant("v", ("a", "b"), uneven, seed=1).changed
    assert changed != variant("v", ("a", "b"), uneven, seed=2).changed
