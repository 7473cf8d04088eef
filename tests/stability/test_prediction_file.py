"""Files of predictions: read back exactly, refused line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stability.factory import failed, generation, prediction
from steadyvlm.errors import LogError
from steadyvlm.stability.prediction_file import predictions_of, read_predictions

RUN = [prediction("q1"), failed("q2"), prediction("q3", text="a\u2028b", generation=generation("red"))]


def test_written_predictions_come_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("\n\n".join(json.dumps(item.to_json(), ensure_ascii=False) for item in RUN), encoding="utf-8")
    assert read_predictions(path) == RUN
    assert predictions_of(str(path)) == RUN
    assert predictions_of(RUN) is RUN


@pytest.mark.parametrize(
    "line",
    [
        '{"sample_id": "q1", "task": ',
        "17",
        '"text"',
        '{"sample_id": "q1"}',
        json.dumps({**RUN[0].to_json(), "score": "1"}),
        json.dumps({**RUN[0].to_json(), "answer": None}),
        json.dumps({**RUN[0].to_json(), "text": 3}),
        json.dumps({**RUN[0].to_json(), "failure": {"what": 1}}),
    ],
)
def test_a_line_that_is_no_prediction_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(RUN[0].to_json()) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(LogError, match=r"line 2 of .*run\.jsonl' is not a prediction"):
        read_predictions(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot read predictions"):
        read_predictions(tmp_path / "missing.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LogError, match="cannot read predictions"):
        read_predictions(tmp_path / "binary.jsonl")
