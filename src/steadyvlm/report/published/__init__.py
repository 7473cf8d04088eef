"""Tables as papers print them, with what was measured here beside them.

The published numbers are data (`*.json`, one file per paper, copied by hand from the paper and checked by a test); the
layout is the paper's. Published and measured figures stand in blocks of their own, each named by its model: a pocket
model's score never stands under another model's name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from steadyvlm.errors import UnknownName
from steadyvlm.report.data import ORIGINAL, ReportData
from steadyvlm.report.inside import inside_rows
from steadyvlm.report.tables import original_row
from steadyvlm.report.text import DASH

FIELDS = {
    "accuracy": "accuracy, %",
    "consistency": "consistency, %",
    "lid": "LID",
    "tflops": "TFLOPs",
}
_MEASURED = {"accuracy": "score, %", "consistency": "consistency, %", "lid": "LID", "tflops": "operations"}


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row: published cells by benchmark and field, then measured cells by field; "" where there is nothing."""

    label: str
    note: str
    published: tuple[tuple[str, ...], ...]
    measured: tuple[str, ...]
    titles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A paper's table beside what was measured.

    Attributes:
        id, title, source: of the table.
        model: what the paper measured.
        benchmarks: column groups of the paper.
        fields: columns within each group, as headings.
        measured_model: what was measured here.
        measured_fields: columns of our block.
        rows: the paper's rows, in its order.
    """

    id: str
    title: str
    source: str
    model: str
    benchmarks: tuple[str, ...]
    fields: tuple[str, ...]
    measured_model: str
    measured_fields: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


def table_ids() -> list[str]:
    """Return the ids a study may ask for."""
    return sorted(_tables())


def published_tables(data: ReportData) -> tuple[PublishedTable, ...]:
    """Return the tables a report asks for, filled with its measured numbers.

    Raises:
        UnknownName: for an id that does not exist.
    """
    measured = _measured(data)
    return tuple(_table(table_id, data.model, measured) for table_id in data.published)


def published_table(table_id: str) -> Mapping[str, Any]:
    """Return a published table as data.

    Raises:
        UnknownName: if there is none of that id.
    """
    known = _tables()
    if table_id not in known:
        raise UnknownName.among("published table", table_id, table_ids())
    return known[table_id]


@cache
def _tables() -> dict[str, Mapping[str, Any]]:
    folder = files(__package__)
    found: dict[str, Mapping[str, Any]] = {}
    for item in folder.iterdir():
        if item.name.endswith(".json"):
            found |= {table["id"]: table for table in json.loads(item.read_text(encoding="utf-8"))["tables"]}
    return found


def _measured(data: ReportData) -> dict[str, dict[str, tuple[str, str]]]:
    """Run name -> field -> (text, title)."""
    first = original_row(data)
    found = {ORIGINAL: {"accuracy": (first.score, f"n = {first.samples:,}")}}
    if ORIGINAL in data.arithmetic:
        from steadyvlm.report.inside import operations_text

        cost = data.arithmetic[ORIGINAL]
        found[ORIGINAL]["tflops"] = (operations_text(cost.flops), f"mean of {cost.n:,} answers; {cost.profile}")
    by_name = {arm.name: arm.comparison for arm in data.accelerated}
    for row in inside_rows(data):
        score = by_name[row.name].score_accelerated
        found[row.name] = {
            "accuracy": (f"{100 * score:.1f} → {row.retained}%", f"n = {by_name[row.name].n:,}"),
            "consistency": (f"{row.consistency.text} {row.consistency.interval}", row.consistency.title),
            "lid": (f"{row.lid.text} {row.lid.interval}".strip(), row.lid.title),
            "tflops": (f"{row.operations} ({row.share} %)", row.counted),
        }
    return found


def _table(table_id: str, model: str, measured: Mapping[str, Mapping[str, tuple[str, str]]]) -> PublishedTable:
    table = published_table(table_id)
    fields = [name for name in FIELDS if name in table["rows"][0]]
    first = table["rows"][0]
    rows = []
    for row in table["rows"]:
        mine = measured.get(row.get("arm", ""), {})
        cells = tuple(
            tuple(_cell(name, row[name][column], first[name][column], row is first) for name in fields)
            for column in range(len(table["benchmarks"]))
        )
        ours = [mine.get(name, (DASH, row.get("note", "not measured"))) for name in fields]
        rows.append(
            PublishedRow(
                row["label"], row.get("note", ""), cells, tuple(text for text, _ in ours), tuple(t for _, t in ours)
            )
        )
    return PublishedTable(
        id=table["id"],
        title=table["title"],
        source=table["source"],
        model=table["model"],
        benchmarks=tuple(table["benchmarks"]),
        fields=tuple(FIELDS[name] for name in fields),
        measured_model=model,
        measured_fields=tuple(_MEASURED[name] for name in fields),
        rows=tuple(rows),
    )


def _cell(name: str, value: float | None, original: float | None, is_first: bool) -> str:
    """Return a published number, with the share of the original where the paper prints it."""
    if value is None:
        return DASH
    if name == "accuracy" and not is_first and original:
        return f"{value:g} → {100 * value / original:.1f}%"
    if name == "tflops" and not is_first and original:
        return f"{value:.2f} ↓{100 * (1 - value / original):.1f}%"
    return f"{value:.2f}" if name in ("lid", "tflops") else f"{value:g}"
