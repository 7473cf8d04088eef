"""Our own records, read back from files that anybody may have edited."""

from __future__ import annotations

import math
from typing import Any

import pytest

from steadyvlm.errors import LogError
from steadyvlm.records import Cost, Failure, Generation, KeptTokens, Prediction, TokenLogprob
from steadyvlm.tasks.records_form import is_record, read_record
from steadyvlm.tasks.rows import Row

GENERATION = Generation(
    text="Yes",
    token_ids=(5, 2),
    stop_reason="eos",
    top=(TokenLogprob(5, "Yes", -0.1),),
    margin=2.5,
    kept=(KeptTokens(0, 0, (-1, 3)),),
    cost=Cost(1.5, 20, 2, (9, 9), 640),
)
RECORD = Prediction(
    sample_id="7",
    task="pope",
    kind="yes_no",
    question="Is it?",
    prompt_sha256="ab",
    image_sha256=("cd",),
    references=("yes",),
    choices=(),
    cluster="img",
    family="random",
    text="Yes",
    answer="yes",
    score=1.0,
    generation=GENERATION,
)


def as_read(**changes: Any) -> Row:
    """The record as JSON gives it back: lists for tuples."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in RECORD.to_json().items()}
    return Row("r.jsonl:3", {**plain, **changes})


def test_a_record_comes_back_as_it_was() -> None:
    assert is_record(as_read().values)
    assert read_record(as_read()) == RECORD
    failed = read_record(as_read(generation=None, failure={"kind": "ImageError", "message": "gone"}, score=0))
    assert failed.failure == Failure("ImageError", "gone")


def test_a_foreign_row_is_no_record() -> None:
    assert not is_record({"sample_id": "1", "text": "yes", "answer": "yes"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 5}, "r.jsonl:3: field 'text' is 5, expected a text; export the records again"),
        ({"group": None}, "field 'group' is None, expected a text"),
        ({"choices": "ab"}, "field 'choices' is 'ab', expected a list of texts"),
        ({"references": [1]}, r"field 'references' is \[1\]"),
        ({"kind": "opne"}, "field 'kind' is 'opne', expected one of open"),
        ({"score": 1.5}, "field 'score' is 1.5, expected a number from 0 to 1"),
        ({"score": True}, "field 'score' is True"),
        ({"score": "1"}, "field 'score' is '1'"),
        ({"score": math.nan}, "field 'score' is nan"),
        ({"generation": {"text": "x"}}, "generation or failure of this record cannot be read"),
        ({"generation": 7}, "cannot be read"),
        ({"failure": {"sort": "x"}}, "cannot be read"),
    ],
)
def test_a_damaged_record_names_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LogError, match=message):
        read_record(as_read(**changes))


def test_a_missing_field_is_nothing() -> None:
    row = as_read()
    del row.values["cluster"]
    with pytest.raises(LogError, match="field 'cluster' is nothing, expected a text"):
        read_record(row)
