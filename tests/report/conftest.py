"""Invented runs for the report's tests; `demo_data` makes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import demo_data

from steadyvlm.records import UNPARSED, Failure, Prediction
from steadyvlm.report.data import ArmReport, ReportData
from steadyvlm.stability import compare


@pytest.fixture(scope="session")
def demo() -> ReportData:
    """A control and all invented arms over 270 questions."""
    return demo_data.report(270)


@pytest.fixture
def prediction() -> Callable[..., Prediction]:
    """Make a prediction; the score follows from the answer."""
    return make_prediction


def make_prediction(number: int, said: str = "yes", **changes: Any) -> Prediction:
    base = Prediction(
        sample_id=f"q{number}",
        task="toy",
        kind="open",
        question=f"question {number}?",
        prompt_sha256=f"prompt-{number}",
        image_sha256=(f"image-{number}",),
        references=("yes",),
        choices=(),
        cluster=f"image-{number}",
        family="",
        text=said,
        answer=said,
        score=float(said == "yes"),
    )
    return replace(base, **changes)


@pytest.fixture
def made() -> Callable[..., ReportData]:
    """Make a report: answers of the original, then of each arm, as lists; None is a failure."""
    return make_report


def make_report(
    original: Sequence[str], arms: dict[str, Sequence[str | None]], *, control: str = "", **changes: Any
) -> ReportData:
    def run(answers: Sequence[str | None]) -> list[Prediction]:
        return [_answered(number, answer) for number, answer in enumerate(answers)]

    first = run(original)
    runs = {name: run(answers) for name, answers in arms.items()}
    reports = [
        ArmReport(name, f"recipe of {name}", compare(first, rows, control=runs.get(control)), rows)
        for name, rows in runs.items()
    ]
    return ReportData(**{"title": "toy", "model": "toy-model", "arms": reports, "original": first, **changes})


def _answered(number: int, answer: str | None) -> Prediction:
    if answer is None:
        failed = Failure("RunError", "ran out of memory")
        return make_prediction(number, text="", answer=UNPARSED, score=0.0, failure=failed)
    return make_prediction(number, answer)
