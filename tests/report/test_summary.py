from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from steadyvlm.errors import InvalidOption
from steadyvlm.report.data import ReportData
from steadyvlm.report.families import family_name, family_rows, heat, task_rows, worst_families
from steadyvlm.report.summary import caveats, headline, insight, noise_rate, readings
from steadyvlm.report.tables import arm_rows, original_row, samples_link

YES, NO = ["yes"] * 10, ["no"] * 10


def test_one_run_is_named_in_the_headline(made: Callable[..., ReportData]) -> None:
    data = made([*YES, "no"], {"fast": ["no", *YES[1:], "yes"]})
    assert headline(data) == (
        "fast on toy-model: score moved by 0.0 points; 18.2 % of answers changed, 9.1 % went from right to wrong; "
        "repeat-run noise not measured"
    )
    assert insight(data) == (
        "The score alone would hide it: fast moved the score by 0.0 points, yet 2 answers of 11 changed "
        "(1 right→wrong, 1 wrong→right)."
    )


def test_several_runs_give_a_range_and_the_control_the_noise(made: Callable[..., ReportData]) -> None:
    arms = {"control": ["no", *YES[1:]], "a": YES, "b": ["no", "no", *YES[2:]]}
    data = made(YES, arms, control="control")
    assert headline(data) == (
        "2 accelerations of toy-model: score moved by 0.0 to −20.0 points; 0.0 to 20.0 % of answers changed, "
        "0.0 to 20.0 % went from right to wrong; repeat-run noise 10.0 %"
    )
    rate = noise_rate(data)
    assert rate is not None
    assert (rate.numerator, rate.denominator) == (1, 10)


def test_noise_is_known_from_the_comparisons_alone(made: Callable[..., ReportData]) -> None:
    with_control = made(YES, {"control": ["no", *YES[1:]], "a": YES}, control="control")
    without = replace(with_control, arms=[arm for arm in with_control.arms if not arm.is_control])
    rate = noise_rate(without)
    assert rate is not None
    assert rate.numerator == 1


def test_nothing_to_compare_is_said(made: Callable[..., ReportData]) -> None:
    assert headline(made(YES, {})) == "toy-model: no accelerated run to compare yet"
    failed = made(YES, {"fast": [None] * 10})
    assert "nothing can be compared" in headline(failed)
    assert readings(failed)[0].sentence == "No sample was answered on both sides."
    assert insight(failed) == ""


def test_no_insight_when_the_score_tells_or_nothing_changed(made: Callable[..., ReportData]) -> None:
    assert insight(made(YES, {"fast": NO})) == ""
    assert insight(made(YES, {"fast": YES})) == ""


def test_a_reading_counts_every_direction(made: Callable[..., ReportData]) -> None:
    data = made(["yes", "yes", "no", "no"], {"control": ["yes", "yes", "no", "no"], "fast": ["yes", "no", "yes", "up"]},
                control="control")  # fmt: skip
    reading = readings(data)[0]
    assert reading.sentence.startswith(
        "3 answers of 4 changed (75.0 %, +75.0 points beyond noise): 1 broke, 1 mended, 1 otherwise. Score 0.0 points ["
    )
    assert "too few changed answers to tell" in reading.test


def test_caveats_are_said_once_and_name_the_runs_they_concern(made: Callable[..., ReportData]) -> None:
    data = made(YES, {"a": [None, *YES[1:]], "b": YES, "c": YES}, notes=["Read this first."])
    found = caveats(data)
    assert found[0] == "Read this first."
    assert sum("A/A control" in sentence for sentence in found) == 1
    assert any(sentence.startswith("No A/A control") for sentence in found)
    assert any(sentence.startswith("a: 1 ") for sentence in found)
    assert any(sentence.startswith("a: only 9 samples") for sentence in found)
    assert any(sentence.startswith("b, c: all 10 texts are identical") for sentence in found)


def test_the_control_gets_no_caveat_of_its_own(made: Callable[..., ReportData]) -> None:
    data = made(YES, {"control": YES, "fast": ["no", *YES[1:]]}, control="control")
    assert not any("identical" in sentence for sentence in caveats(data))


def test_two_runs_of_one_name_are_refused(made: Callable[..., ReportData]) -> None:
    data = made(YES, {"fast": YES})
    with pytest.raises(InvalidOption, match="two runs called 'fast'"):
        replace(data, arms=[*data.arms, *data.arms])
    with pytest.raises(InvalidOption, match="'original' is taken"):
        replace(data, arms=[replace(data.arms[0], name="original")])


def test_rows_of_the_table(made: Callable[..., ReportData]) -> None:
    data = made(["yes", "yes", "no", "no"], {"control": ["yes"] * 2 + ["no"] * 2, "fast": ["no", "yes", "up", None]},
                control="control")  # fmt: skip
    control, fast = arm_rows(data)
    assert (control.number, control.recipe, fast.number) == ("A/A", "recipe of control", "1")
    assert (fast.n, fast.other, fast.format_only, fast.failures, fast.unparsed) == (3, 1, 0, 1, 0)
    assert (fast.changed.of, fast.broken.of, fast.broken_of_right.of) == ("2 of 3", "1 of 3", "1 of 2")
    assert (fast.floor.text, fast.excess.text, fast.tokens) == ("0.0", "+66.7", None)
    assert (original_row(data).samples, original_row(data).score, original_row(data).failures) == (4, "50.0", 0)


def test_a_link_survives_any_name() -> None:
    assert samples_link(run="a&b=c #1", kind="changed", family="") == "#run=a%26b%3Dc%20%231&kind=changed"
    assert samples_link(run="\ud800") == "#run=%3F"


def test_families_worst_first(demo: ReportData) -> None:
    rows = family_rows(demo.accelerated)
    means = [sum(s.divergence_ratio.value for s in row.slices if s) / len(demo.accelerated) for row in rows]
    assert len(rows) == 9
    assert means == sorted(means, reverse=True)
    assert task_rows(demo.accelerated) == ()
    worst = worst_families(demo.accelerated[-1].comparison)
    shares = [item.negative_divergence_ratio.value for item in worst]
    assert len(worst) == 3
    assert shares == sorted(shares, reverse=True)


def test_a_family_an_arm_did_not_answer_is_none(demo: ReportData) -> None:
    arm = demo.accelerated[0]
    some = dict(list(arm.comparison.by_family.items())[1:])
    partial = replace(arm, name="part", comparison=replace(arm.comparison, by_family=some))
    missing = next(iter(set(arm.comparison.by_family) - set(some)))
    row = next(row for row in family_rows([arm, partial]) if row.name == missing)
    assert row.slices[0] is not None
    assert row.slices[1] is None


def test_small_families_are_never_the_worst(made: Callable[..., ReportData]) -> None:
    assert worst_families(made(YES, {"fast": NO}).arms[0].comparison) == ()


def test_family_names_follow_the_comparison(demo: ReportData) -> None:
    first, found = demo.original[0], demo.arms[0].comparison
    assert family_name(first, [found]) == first.family
    qualified = replace(found, by_family={f"pocket/{first.family}": found.by_family[first.family]})
    assert family_name(first, [qualified]) == f"pocket/{first.family}"
    assert family_name(replace(first, family=""), [found]) == "(no family)"


def test_heat_of_nothing_is_none() -> None:
    assert [heat(value) for value in (float("nan"), 0.0, 0.01, 0.011, 1.0)] == [0, 0, 1, 2, 7]
