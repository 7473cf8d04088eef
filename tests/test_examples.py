"""The examples run as they stand, offline."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    expected = {
        "01_one_answer": "accelerated",
        "02_two_runs": "right to wrong",
        "03_inside": "answers stayed",
        "04_low_bit": "48 of 48 answers of the folder are those of the model in memory",
    }
    assert expected[script.stem] in printed
