"""`steadyvlm lid` on the pocket model: table, numbers, figure, and what is refused before anything runs."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET

import pytest

from steadyvlm.report.disruption_figure import Curve, lid_figure
from steadyvlm.report.measures import UNDEFINED, Measure

TASK = "pocket(limit=12)"
RECIPES = ("lofi(beta=2.0)", "fastv(layer=3, keep_ratio=0.1)", "divprune(keep_ratio=0.05)")


def test_table_numbers_and_figure(steadyvlm, tmp_path):
    numbers, figure = tmp_path / "new" / "lid.json", tmp_path / "lid.svg"
    done = steadyvlm(
        "lid",
        *RECIPES,
        "--task",
        TASK,
        "--limit",
        "8",
        "--device",
        "cpu",
        "--json",
        str(numbers),
        "--figure",
        str(figure),
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["recipe", "LID", "[95", "%]", "consistency,", "%", "[95", "%]", "n"]
    assert [line.partition("(")[0] for line in lines[1:4]] == ["lofi", "fastv", "divprune"]
    assert all(line.endswith(" 8") for line in lines[1:4])
    assert "1/3 lofi(beta=2.0)" in done.err
    found = json.loads(numbers.read_text())
    assert found["task"] == TASK
    for row in found["recipes"]:
        values = row["lid"]["values"]
        assert len(values) == row["lid"]["n"] == 8
        assert row["lid"]["value"] == pytest.approx(sum(values) / 8)
        assert row["lid"]["low"] - 1e-9 <= row["lid"]["value"] <= row["lid"]["high"] + 1e-9
        assert len(row["lid"]["per_layer"]) == 12
        assert 0 <= row["consistency"]["value"] <= 1
    assert found["correlation"]["points"] == 3
    root = ET.fromstring(figure.read_text())
    assert len(root.findall(".//{*}polyline")) == 4
    assert len(root.findall(".//{*}circle")) == 3


def test_one_recipe_has_no_correlation(steadyvlm):
    done = steadyvlm(
        "lid", "fastv(layer=3, keep_ratio=1.0)", "--task", TASK, "--limit", "2", "--device", "cpu", "--scope", "visual"
    )
    assert done.code == 0, done.err
    assert "0.000 [0.000, 0.000]" in done.out
    assert "100.0" in done.out
    assert "No correlation" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument"),
        (("lofii",), "Did you mean 'lofi'"),
        (("fastv(layer=99)",), "layer=99 does not exist"),
        (("lofi", "--task", "pockets"), "Did you mean 'pocket'"),
        (("lofi", "--rank", "0"), "rank"),
        (("lofi", "--limit", "0"), "limit"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_measured(steadyvlm, arguments, said):
    done = steadyvlm("lid", *arguments)
    assert done.code == 2
    assert said in done.err
    assert "questions" not in done.err


def measure(value: float) -> Measure:
    return Measure(f"{value:.2f}", "", "", "", value, value, value)


def test_the_figure_survives_hostile_names_and_undefined_numbers():
    points = [("<script>", measure(0.5), measure(0.9)), ("b", measure(1.0), UNDEFINED)]
    drawn = lid_figure(points, [Curve("original", (0.5,)), Curve("</svg><b>", (0.0,))], math.nan)
    root = ET.fromstring(drawn)
    assert root.findall(".//{*}circle") == []  # one point alone says nothing about going together
    assert "LID and consistency" in drawn


def test_many_curves_stay_apart():
    curves = [Curve(str(number), (0.1 * number, 0.2)) for number in range(20)]
    lines = ET.fromstring(lid_figure([], curves, math.nan)).findall(".//{*}polyline")
    assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == 20


def test_a_model_without_energy_can_be_drawn():
    assert "<polyline" in lid_figure([], [Curve("original", (0.0, 0.0))], math.nan)
