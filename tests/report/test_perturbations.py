"""The section on perturbed inputs: every number with its n, substitutes marked, the paper's tables in one unit."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from tests.report import demo_data

from steadyvlm.records import Prediction
from steadyvlm.report.data import ReportData
from steadyvlm.report.html import render_html
from steadyvlm.report.measures import UNDEFINED, Measure
from steadyvlm.report.perturbation_figures import Curve, curves
from steadyvlm.report.perturbations import heat_rows, perturbation_context, sentences, state_rows
from steadyvlm.report.published_states import published_states, state_tables
from steadyvlm.stability import Kind, UnderPerturbation, under_perturbation

KINDS = (
    Kind("image/fog", "Fog", "weather", 5),
    Kind("image/blank_image", "Blank", "blank", 1),
    Kind("text/typos", "Typos", "char", 5),
    Kind("text/back_trans", "Back Trans", "swap", 1),
)
LEVELS = [f"image/fog@{n}" for n in range(1, 6)] + ["image/blank_image@1", "text/typos@2", "text/back_trans@1"]
PAPER = Path(__file__).parents[3] / "shared" / "papers" / "instability-study-published.csv"


def spread_out(rows: list[Prediction], extra: str = "") -> list[Prediction]:
    """The rows, and each again at every level; `extra` is what the accelerated side answers to every third of them."""
    found = list(rows)
    for level in LEVELS:
        for number, row in enumerate(rows):
            child = replace(row, perturbation=level, parent=row.sample_id, prompt_sha256=row.prompt_sha256 + level)
            if extra and number % 3 == 0 and row.failure is None:
                child = replace(child, answer=extra, text=extra, score=0.0, generation=None)
            found.append(child)
    return found


def under(data: ReportData, name: str) -> UnderPerturbation:
    arm = next(arm for arm in data.arms if arm.name == name)
    asked = {row.key for row in arm.predictions}
    original = spread_out([row for row in data.original if row.key in asked])
    statuses = {row.key: "fallback" for row in original if row.perturbation == "text/back_trans@1"}
    statuses |= {row.key: "noop" for row in original[::5] if row.perturbation == "text/typos@2"}
    statuses[(original[0].task, original[0].sample_id, "text/typos@3")] = "unavailable"
    return under_perturbation(original, spread_out(list(arm.predictions), "purple"), kinds=KINDS, statuses=statuses)


@pytest.fixture(scope="module")
def data() -> ReportData:
    plain = demo_data.report(60)
    return replace(plain, perturbed={name: under(plain, name) for name in ("control", "fastv-50", "rtn-4bit")})


def test_the_table_goes_from_clean_to_families(data: ReportData) -> None:
    rows = state_rows(data.perturbed)
    assert [(row.name, row.kind) for row in rows] == [
        ("none (clean)", "clean"), ("all pictures", "modality"), ("weather", "group"), ("blank", "group"),
        ("all prompts", "modality"), ("char", "group"), ("swap", "group"),
    ]  # fmt: skip
    assert rows[0].statuses == ""
    assert float(rows[0].score) == pytest.approx(100 * data.perturbed["fastv-50"].clean.score_original, abs=0.06)
    assert rows[0].cells[1].changed.value == data.perturbed["fastv-50"].clean.divergence_ratio.value
    assert not rows[0].cells[1].more_changed.defined
    assert rows[1].cells[1].more_changed.value > 0
    assert "no-op" in rows[5].statuses
    assert "1 unavailable" in rows[5].statuses
    assert [cell.substitute for cell in rows[6].cells] == [True] * 3
    assert rows[4].n < rows[5].n + rows[6].n  # substitutes are not in the average


def test_without_clean_samples_there_is_no_such_row(data: ReportData) -> None:
    arms = {"half": replace(data.perturbed["rtn-4bit"], clean=replace(data.perturbed["rtn-4bit"].clean, n=0))}
    assert state_rows(arms)[0].name == "all pictures"


def test_the_heat_map_has_a_cell_per_level_and_says_what_is_missing(data: ReportData) -> None:
    fog, blank = heat_rows(data.perturbed, "image")
    typos, back = heat_rows(data.perturbed, "text")
    assert [len(cells) for cells in fog.cells] == [5, 5, 5]
    assert [cell.span for cell in blank.cells[0]] == [5]
    assert (
        fog.cells[1][2].text == f"{100 * data.perturbed['fastv-50'].levels['image/fog@3'].divergence_ratio.value:.0f}"
    )
    assert "of 60; right → wrong" in fog.cells[1][2].title
    assert typos.cells[0][0].text == "–"
    assert typos.cells[0][0].title == "control: not asked"
    assert typos.cells[0][2].title == "control: not asked: 1 unavailable (100.0 %)"
    assert math.isnan(typos.cells[0][2].value)
    assert float(typos.noop) == pytest.approx(20, abs=2)
    assert back.cells[0][0].substitute
    assert (back.noop, fog.noop) == ("", "0.0")


def test_failures_are_said_in_the_cell(data: ReportData) -> None:
    arm = data.perturbed["fastv-50"]
    broken = replace(arm, levels={"image/fog@1": replace(arm.levels["image/fog@1"], failed=2)})
    assert "2 samples without an answer" in heat_rows({"x": broken}, "image")[0].cells[0][0].title


def test_sentences_say_the_direction_and_whether_it_is_sure(data: ReportData) -> None:
    said = sentences(data.perturbed)
    assert not [sentence for sentence in said if sentence.startswith("control")]
    assert said[0].startswith("fastv-50: with changed pictures, ")
    assert "points more answers differ" in said[0]
    assert "no difference" not in said[0]
    arm = data.perturbed["rtn-4bit"]
    unsure = replace(arm.modalities["image"].more_changed, value=-0.01, low=-0.03, high=0.01)
    state = replace(arm.modalities["image"], more_changed=unsure)
    (sentence,) = sentences({"x": replace(arm, modalities={"image": state, "text": replace(state, substitute=True)})})
    assert "1.0 points fewer" in sentence
    assert sentence.endswith("[−3.0, +1.0]; the interval includes no difference.")


def test_curves_need_two_severities_and_keep_names_apart() -> None:
    points = tuple(Measure("1", "[0, 2]", "1 of 9", "", 0.1, 0.05, 0.2) for _ in range(5))
    assert curves([Curve("one", UNDEFINED, points[:1])], width=600, height=300) == ""
    drawn = str(curves([Curve("<a>", points[0], points), Curve("b", UNDEFINED, points)], width=600, height=300))
    assert "&lt;a&gt;" in drawn
    assert "<a>" not in drawn
    assert drawn.count("<polyline") == 2
    assert "clean" in drawn
    places = [float(y) for y in re.findall(r'class="label tone t\d" x="[\d.]+" y="([\d.]+)"', drawn)]
    assert abs(places[0] - places[1]) >= 14
    assert "clean" not in str(curves([Curve("b", UNDEFINED, points)], width=300, height=300))


def test_published_numbers_are_those_of_the_paper_in_percent() -> None:
    if not PAPER.is_file():
        pytest.skip("the list of published numbers is not in this checkout")
    wanted: dict[tuple[str, str, str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    with PAPER.open() as handle:
        for row in csv.DictReader(handle):
            if row["table"] in ("3", "4", "11", "12"):
                key = (row["table"], row["model"], row["method"].replace("llm.int8", "llm_int8"), row["metric"])
                wanted[key][row["benchmark"], row["perturbation"]] = float(row["value_percent"])
    found = {}
    for table in published_states():
        for block in table["blocks"]:
            for row in block["rows"]:
                for metric, values in row["values"].items():
                    places = [(bench, state) for bench in ("gqa", "vqav2") for state in ("none", "image", "text")]
                    model = block["model"].lower()
                    found[table["id"].rpartition("-")[2], model, row["method"], metric] = dict(
                        zip(places, values, strict=True)
                    )
    assert found == dict(wanted)


def test_our_numbers_stand_beside_the_methods_they_belong_to(data: ReportData) -> None:
    tables = {table.id: table for table in perturbation_context(data)["perturbed"]["tables"]}
    assert set(tables) == {"instability-3", "instability-4", "instability-11", "instability-12"}
    first = tables["instability-3"].blocks[0]
    assert first.model == "LLaVA-1.5-7B"
    name, lines = first.methods[0]
    assert name == "FastV (fastv-50)"
    assert [line.metric for line in lines] == ["DR, %", "NDR, %"]
    clean = data.perturbed["fastv-50"].clean.divergence_ratio
    assert lines[0].ours[0].text.startswith(f"{100 * clean.value:.1f} [")
    assert [cell.text for cell in lines[0].published] == ["10.85", "12.59", "8.78", "7.88", "9.94", "8.98"]
    assert [cell.text for cell in first.methods[1][1][0].ours] == ["–"] * 3
    assert not tables["instability-3"].repaired
    last = tables["instability-4"].blocks[-1]
    assert (last.model, last.methods[0][0]) == ("measured here only", "rtn-4bit")
    assert {cell.text for cell in last.methods[0][1][0].published} == {""}


def test_repaired_cells_are_marked_and_scores_have_their_original(data: ReportData) -> None:
    tables = {table.id: table for table in perturbation_context(data)["perturbed"]["tables"]}
    awq = dict(tables["instability-12"].blocks[0].methods)["AWQ"]
    assert [(cell.text, cell.repaired) for cell in awq[0].published[:2]] == [("60.916", False), ("55.1", True)]
    fastv = dict(tables["instability-11"].blocks[0].methods)["FastV (fastv-50)"]
    assert fastv[0].ours[0].title.startswith("original ")
    assert fastv[1].ours[1].text.startswith("+")
    assert dict(tables["instability-11"].blocks[0].methods)["HiRED"][1].published[2].text == "−19.8"


def test_tables_without_a_matching_arm_are_left_out(data: ReportData) -> None:
    arm = data.perturbed["fastv-50"]
    assert [table.id for table in state_tables({"a": ("fastv(layer=3)", arm)})] == ["instability-3", "instability-11"]
    assert state_tables({}) == ()
    only = {"text": replace(arm.modalities["text"], substitute=True)}
    table = state_tables({"a": ("fastv(layer=3)", replace(arm, modalities=only))})[0]
    assert [cell.title for cell in table.blocks[0].methods[0][1][0].ours[1:]] == [
        "not asked",
        "only substitutes were available",
    ]


def test_the_page_shows_the_section_only_where_there_is_something(data: ReportData) -> None:
    assert 'id="perturbed"' not in render_html(replace(data, perturbed={}))
    page = render_html(data)
    block = page[page.index('id="perturbed"') :]
    for expected in ("Under perturbation", "◇", "55.1°", "prints some cells", "Vision pert."):
        assert expected in block


def test_hostile_names_are_escaped(data: ReportData) -> None:
    arm = data.perturbed["fastv-50"]
    evil = "<img src=x>"
    kinds = tuple(replace(kind, label=evil) for kind in arm.kinds)
    page = render_html(replace(data, perturbed={evil: replace(arm, kinds=kinds)}))
    assert evil not in page
