"""Answers that already exist: prediction logs of any home-made shape, read into `Prediction` records.

A log is one row per question with at least an id, the model's text and the gold answer, as JSON lines, a JSON list,
CSV or TSV. Texts are read and scored here, by the same scorers as everything else; a score found in the log is only
compared with ours. Our own records (`Prediction.to_json`, one a line) are taken as they are.

Nothing is guessed that could pair wrong answers: an id that occurs twice with different content is refused (unless ids
restart per category, which is resolved and noted), and a row without an answer becomes a recorded failure.

Source: shapes seen in public repositories, such as {question_id, prompt, text} and {qid, image_path, pred, answers}.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from steadyvlm.errors import InvalidOption, LogError
from steadyvlm.records import AnswerKind, Prediction
from steadyvlm.tasks.columns import resolve_columns
from steadyvlm.tasks.gold import KINDS, infer_kinds
from steadyvlm.tasks.log_entries import Entry, read_entry, to_prediction
from steadyvlm.tasks.records_form import is_record, read_record
from steadyvlm.tasks.rows import MAX_LINE_BYTES, Row, read_table, shown

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Log:
    """A log and what was noticed while reading it.

    Attributes:
        predictions: one per question, in the file's order.
        columns: role to the column that played it; empty for our own records.
        duplicates: rows dropped because an identical one came before.
        empty_lines: lines skipped because nothing was on them.
        imported_scores: rows that carried a score of their own.
        score_disagreements: how many of those differ from ours; ours is the one used.
        ids_by_category: ids restart in each category, so "category/id" is the sample id.
    """

    predictions: tuple[Prediction, ...]
    columns: Mapping[str, str]
    duplicates: int
    empty_lines: int
    imported_scores: int = 0
    score_disagreements: int = 0
    ids_by_category: bool = False

    @property
    def failures(self) -> int:
        """Rows without an answer, kept as failed predictions."""
        return sum(prediction.failure is not None for prediction in self.predictions)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the import, one sentence each."""
        counts = (
            (self.duplicates, f"identical duplicate rows dropped: {self.duplicates:,}."),
            (self.empty_lines, f"empty lines skipped: {self.empty_lines:,}."),
            (self.failures, f"rows without an answer, counted as failed: {self.failures:,}."),
            (
                self.score_disagreements,
                f"scores in the log that differ from ours: {self.score_disagreements:,} of {self.imported_scores:,}; "
                "ours are used.",
            ),
            (self.ids_by_category, "ids restart in each category: 'category/id' is used."),
        )
        return tuple(sentence for count, sentence in counts if count)


def read_log(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kind: AnswerKind | None = None,
    task: str = "log",
    max_line_bytes: int = MAX_LINE_BYTES,
) -> list[Prediction]:
    """Return the predictions in a log; see `load_log`, which also says what was noticed."""
    return list(load_log(path, columns=columns, kind=kind, task=task, max_line_bytes=max_line_bytes).predictions)


def load_log(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    kind: AnswerKind | None = None,
    task: str = "log",
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Log:
    """Read a prediction log (`.jsonl`, `.json`, `.csv`, `.tsv`) or a file of our own records.

    Args:
        path: the log.
        columns: role to column name where the automatic choice is wrong; roles are listed in `columns.ALIASES`,
            and "category+qid" joins two columns to an id.
        kind: how answers are read; by default from a kind column, else from options and golds.
        task: task name given to the predictions; the two logs of a comparison need the same.
        max_line_bytes: refuse a longer line.

    Raises:
        LogError: naming the file, the line, what was found and what to do.
        UnknownName: for a role in `columns` that does not exist.
        InvalidOption: for a kind that does not exist.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidOption(f"kind is {kind!r}; use one of {', '.join(KINDS)}.")
    table = read_table(path, error=LogError, max_line_bytes=max_line_bytes)
    if not columns and is_record(table.rows[0].values):
        records = [read_record(row) for row in table.rows]
        unique = _unique(table.rows, [str(record.key) for record in records], records)
        predictions = tuple(record for _, record in unique)
        return Log(predictions, {}, duplicates=len(records) - len(unique), empty_lines=table.empty_lines)
    names = resolve_columns(dict.fromkeys(name for row in table.rows for name in row.values), columns or {}, str(path))
    entries = [read_entry(row, names) for row in table.rows]
    if by_category := _restart_by_category(entries):
        entries = [dataclasses.replace(entry, id=f"{entry.family}/{entry.id}") for entry in entries]
    kept = _unique(table.rows, [entry.id for entry in entries], entries)
    graded = [
        (entry, to_prediction(entry, entry_kind, task, place))
        for (place, entry), entry_kind in zip(kept, _kinds([entry for _, entry in kept], kind), strict=True)
    ]
    scores = [(entry.score, prediction.score) for entry, prediction in graded if entry.score is not None]
    return Log(
        tuple(prediction for _, prediction in graded),
        {role: "+".join(parts) for role, parts in names.items()},
        duplicates=len(entries) - len(kept),
        empty_lines=table.empty_lines,
        imported_scores=len(scores),
        score_disagreements=sum(not math.isclose(theirs, ours, abs_tol=1e-6) for theirs, ours in scores),
        ids_by_category=by_category,
    )


def _restart_by_category(entries: Sequence[Entry]) -> bool:
    """Whether ids stand for different rows in the file, but for one row within each category."""
    rows_by_id: dict[str, Entry] = {}
    rows_by_both: dict[tuple[str, str], Entry] = {}
    restart = False
    for entry in entries:
        restart |= rows_by_id.setdefault(entry.id, entry) != entry
        if not entry.family or rows_by_both.setdefault((entry.family, entry.id), entry) != entry:
            return False
    return restart


def _unique(rows: Sequence[Row], ids: Sequence[str], contents: Sequence[Content]) -> list[tuple[str, Content]]:
    """Return (place, content) of the first row of each id; a later row may only repeat it exactly."""
    first: dict[str, tuple[str, Content]] = {}
    for row, name, content in zip(rows, ids, contents, strict=True):
        place, before = first.setdefault(name, (row.place, content))
        if before != content:
            raise LogError(
                f"{row.place}: the id {shown(name)} already occurred at {place} with other content. Join columns "
                "if ids repeat by design, as in columns={'id': 'category+id'}; keep one run if two were appended."
            )
    return list(first.values())


def _kinds(entries: Sequence[Entry], chosen: AnswerKind | None) -> list[AnswerKind]:
    if chosen is not None:
        return [chosen] * len(entries)
    return infer_kinds(
        [entry.golds for entry in entries], [entry.choices for entry in entries], [entry.kind for entry in entries]
    )
