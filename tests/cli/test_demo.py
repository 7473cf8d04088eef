"""The main job from its command to its page, with the real pocket model and few questions."""

from __future__ import annotations

from steadyvlm.cli.demo import STUDY
from steadyvlm.study.plan import Study
from steadyvlm.study.result import read_result

ASKED = 12


def test_the_demo_ends_with_a_table_and_a_page_and_resumes(steadyvlm, tmp_path):
    folder = tmp_path / "demo"
    done = steadyvlm("demo", "--limit", ASKED, "--folder", folder)
    assert done.code == 0, done.err
    arms = [arm.name for arm in Study.from_yaml(STUDY).arms]
    assert len(arms) == 6
    for name in ("original", "control", *arms):
        assert name in done.out
    assert f"Report: {folder / 'report.html'}" in done.out

    result = read_result(folder)
    assert list(result.arms) == arms
    assert result.control is not None
    assert all(len(rows) == ASKED for rows in (result.original, result.control, *result.arms.values()))
    assert set(result.failures.values()) == {0}
    tokens = {arm: rows[0].generation.cost.visual_tokens_per_layer for arm, rows in result.arms.items()}
    original = result.original[0].generation.cost.visual_tokens_per_layer
    assert sum(tokens["visionzip-40"]) < sum(tokens["fastv-50"]) < sum(original) == sum(tokens["rtn-4bit"])

    page = (folder / "report.html").read_text(encoding="utf-8")
    (folder / "report.html").unlink()
    again = steadyvlm("demo", "--limit", ASKED, "--folder", folder)
    assert again.code == 0, again.err
    assert "0:00 inside them" in again.out
    assert [row.text for row in read_result(folder).original] == [row.text for row in result.original]
    assert len((folder / "report.html").read_text(encoding="utf-8")) == len(page)
