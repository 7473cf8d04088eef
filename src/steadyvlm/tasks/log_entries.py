"""One row of somebody else's log with its roles resolved, and the prediction made from it.

Pictures are not in a log, only their names: the base name without its folder identifies a picture, since folders
differ between machines. Without a cluster column the pictures are the cluster, and without pictures each question is
its own. Without a prompt column the question is what both sides must have in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from steadyvlm.errors import LogError, SampleError
from steadyvlm.records import UNPARSED, AnswerKind, Failure, Grade, Prediction
from steadyvlm.seeding import content_hash
from steadyvlm.tasks.gold import references, text_of, texts
from steadyvlm.tasks.rows import Row, shown
from steadyvlm.tasks.scorers import check_gold, grade_text

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. `text` is None where the log holds no answer, `score` where it holds no usable score."""

    id: str
    text: str | None
    golds: tuple[str, ...]
    choices: tuple[str, ...]
    prompt: str
    question: str
    images: tuple[str, ...]
    family: str
    cluster: str
    group: str
    kind: str
    score: float | None


def read_entry(row: Row, columns: Mapping[str, Sequence[str]]) -> Entry:
    """Return the entry in a row; `columns` comes from `resolve_columns`.

    Raises:
        LogError: naming the row and the column that cannot be read.
    """

    def read(role: str, parse: Callable[[Any], Value]) -> Value:
        names = columns.get(role, ())
        try:
            return parse(row.values.get(names[0]) if names else None)
        except SampleError as problem:
            raise LogError(f"{row.place}: column '{names[0]}': {problem}") from None

    (answer,) = columns["prediction"]
    if answer not in row.values:
        raise LogError(f"{row.place}: there is no '{answer}'; finish the run, or write null for a failed question.")
    return Entry(
        id="+".join(_id(row, name) for name in columns["id"]),
        text=read("prediction", _answer),
        golds=read("gold", texts),
        choices=read("choices", texts),
        prompt=read("prompt", _single),
        question=read("question", _single),
        images=read("image", _image_names),
        family=read("family", _single),
        cluster=read("cluster", _single),
        group=read("group", _single),
        kind=read("kind", _single),
        score=read("score", _score),
    )


def to_prediction(entry: Entry, kind: AnswerKind, task: str, place: str) -> Prediction:
    """Return the graded prediction of an entry.

    Raises:
        LogError: if golds and options do not fit the kind.
    """
    choices = entry.choices if kind == "choice" else ()
    try:
        golds = references(kind, entry.golds, choices)
        check_gold(kind, golds, choices)
    except SampleError as problem:
        raise LogError(f"{place}: question '{entry.id}': {problem}") from None
    grade, failure = Grade(UNPARSED, 0.0), None
    if entry.text is None:
        failure = Failure("LogError", f"{place}: the log holds no answer to this question")
    else:
        grade = grade_text(kind, golds, choices, entry.text)
    asked = entry.prompt or entry.question
    return Prediction(
        sample_id=entry.id,
        task=task,
        kind=kind,
        question=entry.question or entry.prompt,
        prompt_sha256=content_hash(asked) if asked else "",
        image_sha256=tuple(content_hash(["image name", name]) for name in entry.images),
        references=golds,
        choices=choices,
        cluster=entry.cluster or " ".join(entry.images) or entry.id,
        family=entry.family,
        text=entry.text or "",
        answer=grade.answer,
        score=grade.score,
        group=entry.group,
        failure=failure,
    )


def _id(row: Row, name: str) -> str:
    value = row.values.get(name)
    try:
        text = text_of(value).strip()
    except SampleError:
        text = ""
    if not text:
        raise LogError(f"{row.place}: the id in '{name}' is {shown(value)}; give every row a text or a number.")
    return text


def _answer(value: Any) -> str | None:
    """A text, a number, or a list of one of them; null (a crash, or NaN written by pandas) is no answer."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return None if value is None else text_of(value)


def _single(value: Any) -> str:
    return "" if value is None else text_of(value)


def _image_names(value: Any) -> tuple[str, ...]:
    """Base names of one picture or a list of them; anything that has no name (embedded bytes) is left out."""
    names = []
    for item in value if isinstance(value, list) else [value]:
        name = item.get("path") if isinstance(item, dict) else item
        if isinstance(name, str | int) and str(name).strip():
            names.append(str(name).strip().replace("\\", "/").rsplit("/", 1)[-1])
    return tuple(names)


def _score(value: Any) -> float | None:
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and 0 <= score <= 1 else None
