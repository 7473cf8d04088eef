"""The page over several models: each recipe's row per model, links that lead to the samples, nothing that can run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from report import demo_data
from steadyvlm.report.data import Arithmetic
from steadyvlm.report.suite import Chapter, method_rows, page_link, render_suite, write_suite_html


@pytest.fixture(scope="module")
def chapters() -> list[Chapter]:
    first = demo_data.report(60)
    costs = {"fastv-50": Arithmetic(1e9, 0.5, 60, "full")}
    second = replace(first, model="<b>other</b>", arms=[arm for arm in first.arms if arm.name != "rtn-4bit"])
    return [Chapter("a/report.html", replace(first, arithmetic=costs)), Chapter(page_link("b c"), second)]


def test_a_recipe_has_a_cell_per_model_and_none_where_it_was_not_run(chapters: list[Chapter]) -> None:
    rows = {row.name: row for row in method_rows(chapters)}
    assert "control" not in rows
    assert rows["rtn-4bit"].cells[1] is None
    both = rows["fastv-50"].cells
    assert both[0] is not None
    assert both[1] is not None
    assert both[0][2] == "a/report.html#run=fastv-50&kind=changed"
    assert both[1][2].startswith("b%20c/report.html#")


def test_the_page_escapes_and_names_every_model(chapters: list[Chapter]) -> None:
    page = render_suite("many <i>models</i>", chapters)
    assert "<b>other</b>" not in page
    assert "&lt;b&gt;other&lt;/b&gt;" in page
    assert "many &lt;i&gt;" in page
    assert "50.0" in page
    assert "not part of this model" in page
    assert "http" not in page.split("<style>")[0].replace("http-equiv", "")


def test_it_is_written_in_one_step(chapters: list[Chapter], tmp_path: Path) -> None:
    path = write_suite_html("s", chapters, tmp_path / "new" / "index.html")
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [item.name for item in path.parent.iterdir()] == ["index.html"]
