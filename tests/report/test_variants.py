"""Variants and contrasts in a report: means beside the value of every seed, and no claim the intervals do not carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from steadyvlm.report.data import Arithmetic, ReportData
from steadyvlm.report.html import render_html
from steadyvlm.report.published import published_tables
from steadyvlm.report.terminal import terminal_text
from steadyvlm.report.variants import contrast_rows, of_estimate, sentence, variant_rows
from steadyvlm.stability import Contrast, Estimate, Variant


def estimate(value: float, low: float, high: float, per_seed: tuple[float, ...] = (0.0, 0.1, 0.2)) -> Estimate:
    return Estimate(value, low, high, per_seed, 1200, 200, 0.95)


NOTHING = estimate(float("nan"), float("nan"), float("nan"), (float("nan"),))
JOINT = Variant(
    "joint",
    ("joint-s0", "joint-s1", "joint-s2"),
    changed=estimate(0.051, 0.04, 0.065, (0.048, 0.051, 0.054)),
    broken=estimate(0.021, 0.01, 0.03),
    score=estimate(0.88, 0.86, 0.9),
    retained=estimate(0.974, 0.96, 0.99),
)
ALONE = replace(
    JOINT, name="prune-only", runs=("prune-only",), changed=estimate(0.1, 0.08, 0.12, (0.1,)), retained=NOTHING
)
FEWER = estimate(-0.03, -0.04, -0.01)
MORE = estimate(0.03, 0.01, 0.04)
EVEN = estimate(0.001, -0.01, 0.01)


@pytest.fixture
def data(demo: ReportData) -> ReportData:
    found = Contrast("joint", "prune-only", changed=FEWER, broken=EVEN, score=EVEN)
    variants = {"joint": JOINT, "prune-only": ALONE}
    return replace(demo, variants=variants, contrasts=(found,), published=("quota-joint",))


def test_rows_show_the_mean_the_interval_and_every_seed(data: ReportData) -> None:
    joint, alone = variant_rows(data)
    assert (joint.changed.text, joint.changed.interval) == ("5.1", "[4.0, 6.5]")
    assert joint.changed.of == "seeds 4.8, 5.1, 5.4"
    assert "mean of 3 seeds and 1,200 questions in 200 clusters; 95 % interval" in joint.changed.title
    assert "questions and seeds" in joint.changed.title
    assert joint.runs == "3 runs"
    assert alone.changed.of == "one run"
    assert "bootstrap over questions)" in alone.changed.title
    assert not alone.retained.defined


def test_contrasts_carry_their_sign(data: ReportData) -> None:
    (row,) = contrast_rows(data)
    assert row.changed.text == "−3.0"
    assert row.changed.interval == "[−4.0, −1.0]"
    assert of_estimate(MORE, sign=True).text == "+3.0"


@pytest.mark.parametrize(
    ("changed", "broken", "said"),
    [
        (FEWER, EVEN, "fewer answers change under a"),
        (EVEN, MORE, "more right answers break under a"),
        (FEWER, FEWER, "fewer answers change and fewer right answers break under a"),
        (EVEN, EVEN, "not told apart: zero lies inside both intervals"),
    ],
)
def test_no_more_is_said_than_the_intervals_allow(changed: Estimate, broken: Estimate, said: str) -> None:
    assert sentence(Contrast("a", "b", changed=changed, broken=broken, score=EVEN)) == said


def test_the_page_has_the_section_only_when_there_is_something_to_show(data: ReportData, demo: ReportData) -> None:
    page = render_html(data)
    assert 'id="seeds"' in page
    assert "seeds 4.8, 5.1, 5.4" in page
    assert "fewer answers change under joint" in page
    assert 'id="seeds"' not in render_html(demo)
    assert "One minus the other" not in render_html(replace(data, contrasts=()))


def test_the_terminal_tells_the_same(data: ReportData, demo: ReportData) -> None:
    text = " ".join(terminal_text(data).split())
    assert "3 runs: 97.4 % of the score retained [96.0, 99.0], 5.1 % changed [4.0, 6.5], 2.1 % right→wrong" in text
    assert "1 run: 10.0 % changed" in text
    assert "changed −3.0 [−4.0, −1.0], right→wrong +0.1 [−1.0, +1.0]: fewer answers change under joint." in text
    assert "calibration seeds" not in terminal_text(demo)


def test_a_published_row_takes_the_variants_means(data: ReportData) -> None:
    (table,) = published_tables(data)
    rows = {row.label: row for row in table.rows}
    named = ("score, %", "retention, %", "DR, %", "NDR, %", "operations", "operations by the paper’s count, %")
    assert table.measured_fields == named
    assert rows["Collaborative (QUOTA)"].measured[:3] == ("88.0 [86.0, 90.0]", "97.4 [96.0, 99.0]", "5.1 [4.0, 6.5]")
    assert rows["Collaborative (QUOTA)"].titles[2].startswith("seeds 4.8, 5.1, 5.4; ")
    assert rows["Quant-only"].measured[2] == "–"
    assert rows["Collaborative (QUOTA)"].overall == ("95.65",)


def test_operations_are_counted_as_the_paper_counts(data: ReportData) -> None:
    counted = {"joint-s0": Arithmetic(4e8, 0.409, 1000, "the paper's"), "prune-only": Arithmetic(4e8, 0.432, 1000, "")}
    (table,) = published_tables(replace(data, conventions={"quota-table4": counted}))
    rows = {row.label: row for row in table.rows}
    assert rows["Collaborative (QUOTA)"].measured[-1] == "40.9"
    assert rows["Collaborative (QUOTA)"].titles[-1] == "mean of 1,000 answers; the paper's"
    assert rows["Prune-only"].measured[-1] == "43.2"
    assert rows["Quant-only"].measured[-1] == "–"


def test_a_name_cannot_become_markup(data: ReportData, made: Callable[..., ReportData]) -> None:
    evil = replace(JOINT, name="<script>alert(1)</script>")
    page = render_html(replace(data, variants={"x": evil}, contrasts=(), published=()))
    assert "<script>alert(1)" not in page
