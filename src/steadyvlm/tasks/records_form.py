"""Our own records read back from a file that anybody may have edited.

`Prediction.from_json` trusts its input, as it should for our own store. A file handed to us is checked field by field
first, so that a wrong type is a message with a line number instead of a surprise three modules later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steadyvlm.errors import LogError
from steadyvlm.records import Prediction
from steadyvlm.tasks.gold import KINDS
from steadyvlm.tasks.rows import Row, shown

_TEXTS = ("sample_id", "task", "kind", "question", "prompt_sha256", "cluster", "family", "text", "answer")
_OPTIONAL_TEXTS = ("group", "perturbation", "parent")
_LISTS = ("image_sha256", "references", "choices")


def is_record(values: Mapping[str, Any]) -> bool:
    """Whether an object is meant to be one of our records rather than a row of somebody else's log."""
    return {"sample_id", "prompt_sha256", "answer"} <= values.keys()


def read_record(row: Row) -> Prediction:
    """Return the prediction in a row written by `Prediction.to_json`.

    Raises:
        LogError: naming the row and the first field that is missing or has the wrong type.
    """
    values = row.values
    for name in _TEXTS:
        if not isinstance(values.get(name), str):
            raise _wrong(row, name, "a text")
    for name in _OPTIONAL_TEXTS:
        if not isinstance(values.get(name, ""), str):
            raise _wrong(row, name, "a text")
    for name in _LISTS:
        items = values.get(name)
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise _wrong(row, name, "a list of texts")
    if values["kind"] not in KINDS:
        raise _wrong(row, "kind", f"one of {', '.join(KINDS)}")
    score = values.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1 or math.isnan(score):
        raise _wrong(row, "score", "a number from 0 to 1")
    try:
        return Prediction.from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise LogError(
            f"{row.place}: the generation or failure of this record cannot be read ({problem!r}); "
            "export the records again."
        ) from None


def _wrong(row: Row, name: str, expected: str) -> LogError:
    found = shown(row.values[name]) if name in row.values else "nothing"
    return LogError(f"{row.place}: field '{name}' is {found}, expected {expected}; export the records again.")
