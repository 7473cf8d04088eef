from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from steadyvlm.errors import InvalidOption
from steadyvlm.probes.correlation import correlate, pearson, spearman

# Sun et al., arXiv 2503.06794v2, Table 2: (LID, consistency in %) on GQA and on VQAv2
PUBLISHED = {
    "PruMerge+": ((2.24, 80.76), (2.26, 82.42)),
    "PruMerge+ (finetuned)": ((2.29, 80.23), (2.27, 81.21)),
    "TRIM": ((2.01, 81.73), (2.00, 81.91)),
    "TRIM (finetuned)": ((2.25, 80.08), (2.19, 80.27)),
    "VisionZip 192": ((1.67, 85.57), (1.74, 87.57)),
    "VisionZip 128": ((2.09, 81.28), (2.16, 84.47)),
    "VisionZip 64": ((2.73, 75.63), (2.81, 78.10)),
    "LoFi 6": ((1.26, 88.96), (1.37, 87.93)),
    "LoFi 4": ((1.56, 87.26), (1.67, 86.24)),
    "LoFi 2": ((2.00, 84.75), (2.13, 83.56)),
}
METHODS = [name.split()[0] for name in PUBLISHED]


@pytest.mark.parametrize(
    ("data", "printed", "coefficient", "ranks", "without_lofi"),
    [(0, -0.978, -0.9778, -0.988, -0.990), (1, -0.908, -0.9072, -0.855, -0.850)],
)
def test_the_published_points_give_the_published_coefficient(
    data: int, printed: float, coefficient: float, ranks: float, without_lofi: float
) -> None:
    moved, same = zip(*(points[data] for points in PUBLISHED.values()), strict=True)
    found = correlate(moved, same, METHODS)
    assert found.pearson == pytest.approx(coefficient, abs=1e-4)
    assert found.pearson == pytest.approx(printed, abs=1e-3)
    assert found.spearman == pytest.approx(ranks, abs=1e-3)
    assert found.points == 10
    rest = [index for index, method in enumerate(METHODS) if method != "LoFi"]
    alone = pearson([moved[index] for index in rest], [same[index] for index in rest])
    assert alone == pytest.approx(without_lofi, abs=1e-3)
    assert found.leave_one_out is not None
    assert found.leave_one_out[0] <= alone <= found.leave_one_out[1]
    assert found.leave_one_out[0] < found.pearson < found.leave_one_out[1]


@pytest.mark.parametrize("seed", range(4))
def test_coefficients_are_those_of_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=12).round(1), generator.normal(size=12).round(1)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert pearson(3 * x + 1, -y) == pytest.approx(-pearson(x, y))


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 2.0], [2.0, 1.0]), ([1.0] * 4, [1, 2, 3, 4.0])])
def test_too_few_points_or_no_change_have_no_coefficient(x: list[float], y: list[float]) -> None:
    assert math.isnan(pearson(x, y))
    assert math.isnan(spearman(x, y))


def test_points_on_a_line_are_exactly_one() -> None:
    x = np.array([0.1, 0.2, 0.7])
    assert pearson(x, 0.3 * x) == 1.0


@pytest.mark.parametrize("methods", [["a"] * 5, ["a", "a", "a", "b", "c"], ["a", "b", "b", "b", "b"]])
def test_no_range_when_too_little_would_be_left(methods: list[str]) -> None:
    """One method: nothing is left; else the largest method's runs go and fewer than three stay."""
    assert correlate([1, 2, 3, 4, 5], [5, 3, 4, 1, 2], methods).leave_one_out is None


@pytest.mark.parametrize(
    ("x", "y"), [([1.0, 2.0], [1.0]), ([[1.0]], [[1.0]]), ([1.0, math.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0, math.inf])]
)
def test_lists_that_do_not_match_are_refused(x: object, y: object) -> None:
    with pytest.raises(InvalidOption, match="cannot be correlated"):
        pearson(x, y)  # type: ignore[arg-type]  # wrong on purpose


def test_every_run_needs_its_method() -> None:
    with pytest.raises(InvalidOption, match="3 runs have 2 method names"):
        correlate([1, 2, 3], [1, 2, 3], ["a", "b"])
