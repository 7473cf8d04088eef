from __future__ import annotations

import json
from pathlib import Path

import pytest

LOGS = Path(__file__).parent / "logs"
REAL = Path(__file__).parents[3] / "shared" / "data" / "pope-random-llava-1.5-7b"


def test_two_logs_in_another_order(steadyvlm, tmp_path):
    page, numbers = tmp_path / "out" / "report.html", tmp_path / "out" / "numbers.json"
    done = steadyvlm("compare", LOGS / "original.jsonl", LOGS / "accelerated.jsonl", "--html", page, "--json", numbers)
    assert done.code == 0, done.err
    # By hand: q02, q03, q05 and q10 change; q02, q03 and q10 from right to wrong, q05 from wrong to right.
    # q01 says the same in other words; q08 too.
    assert "Divergence ratio (DR)              4/10 = 40.00 %" in done.out
    assert "Negative divergence ratio (NDR)    3/10 = 30.00 %" in done.out
    found = json.loads(numbers.read_text())
    assert (found["n"], found["changed"]) == (10, 4)
    assert found["negative_divergence_ratio"]["numerator"] == 3
    assert found["cells"]["wrong_to_right"] == 1
    assert "<html" in page.read_text(encoding="utf-8")
    assert str(page) in done.out


def test_a_control_is_the_noise_floor(steadyvlm, tmp_path):
    numbers = tmp_path / "numbers.json"
    done = steadyvlm(
        "compare",
        LOGS / "original.jsonl",
        LOGS / "accelerated.jsonl",
        "--control",
        LOGS / "control.jsonl",
        "--json",
        numbers,
    )
    assert done.code == 0, done.err
    floor = json.loads(numbers.read_text())["noise"]["control_divergence_ratio"]
    assert (floor["numerator"], floor["denominator"]) == (1, 10)


def test_a_missing_log_is_a_bad_request(steadyvlm, tmp_path):
    done = steadyvlm("compare", LOGS / "original.jsonl", tmp_path / "nothing.jsonl")
    assert (done.code, done.out) == (2, "")
    assert "nothing.jsonl" in done.err


def test_logs_of_other_questions_are_refused(steadyvlm, tmp_path):
    rows = [json.loads(line) for line in (LOGS / "accelerated.jsonl").read_text().splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**row, "prompt": f"{row['prompt']} Really?"}) + "\n" for row in rows))
    done = steadyvlm("compare", LOGS / "original.jsonl", other)
    assert done.code == 2
    assert done.err.startswith("PairingError: ")


def test_a_result_that_cannot_be_written_is_refused(steadyvlm, tmp_path):
    (tmp_path / "file").write_text("")
    for option in ("--json", "--html"):
        done = steadyvlm(
            "compare", LOGS / "original.jsonl", LOGS / "accelerated.jsonl", option, tmp_path / "file" / "x"
        )
        assert done.code in (2, 3)
        assert "cannot write" in done.err


def test_columns_and_kind_can_be_named(steadyvlm, tmp_path):
    for name, answer in (("original", "B"), ("fast", "A")):
        row = {"qid": "1", "prompt": "Which? A. one B. two", "first": "C", "second": answer, "gold": "B"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ("compare", tmp_path / "original.jsonl", tmp_path / "fast.jsonl")
    done = steadyvlm(*arguments, "--column", "prediction=second", "--kind", "open")
    assert done.code == 0, done.err
    assert "1/1 = 100.00 %" in done.out
    assert "fast on original.jsonl" in done.out
    refused = steadyvlm(*arguments, "--column", "second")
    assert refused.code == 2
    assert "write ROLE=NAME" in refused.err


def test_runs_with_some_other_questions_only_when_asked_for(steadyvlm, tmp_path):
    lines = (LOGS / "accelerated.jsonl").read_text().splitlines(keepends=True)
    short = tmp_path / "short.jsonl"
    short.write_text("".join(lines[:8]))
    assert steadyvlm("compare", LOGS / "original.jsonl", short).code == 2
    done = steadyvlm("compare", LOGS / "original.jsonl", short, "--common-only")
    assert done.code == 0, done.err
    assert "/8 = " in done.out


def test_arms_of_a_study_can_be_compared(steadyvlm, finished, tmp_path):
    page = tmp_path / "report.html"
    done = steadyvlm("compare", finished / "original", finished / "arm0", "--html", page)
    assert done.code == 0, done.err
    assert "1/5 = 20.00 %" in done.out
    assert page.is_file()
    done = steadyvlm("compare", finished / "original", finished / "arm7")
    assert done.code == 2
    assert "arm0" in done.err


@pytest.mark.skipif(not REAL.is_dir(), reason="the 3,000 answers of LLaVA-1.5-7B are not part of the repository")
def test_real_answers_of_llava_before_and_after_visionzip(steadyvlm, tmp_path):
    page = tmp_path / "report.html"
    done = steadyvlm("compare", REAL / "original.jsonl", REAL / "visionzip.jsonl", "--html", page)
    assert done.code == 0, done.err
    for figure in ("288/3000 = 9.60 %", "239/3000 = 7.97 %"):
        assert figure in done.out
    assert page.stat().st_size > 10_000
