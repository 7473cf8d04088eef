"""Tables as papers print them, with what was measured here beside them.

The published numbers are data (`*.json`, one file per paper, copied by hand from the paper and checked by a test); the
layout is the paper's. Published and measured figures stand in blocks of their own, each named by its model: a pocket
model's score never stands under another model's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from steadyvlm.errors import UnknownName
from steadyvlm.report.data import ORIGINAL, ReportData
from steadyvlm.report.inside import inside_rows
from steadyvlm.report.measures import Measure, of_rate
from steadyvlm.report.tables import original_row
from steadyvlm.report.text import DASH, percent
from steadyvlm.report.variants import of_estimate
from steadyvlm.stability import Comparison

FIELDS = {
    "accuracy": "accuracy, %",
    "retention": "retention, %",
    "consistency": "consistency, %",
    "lid": "LID",
    "tflops": "TFLOPs",
}
"""What papers print, benchmark by benchmark."""
_MEASURED = {
    "accuracy": "score, %",
    "retention": "retention, %",
    "consistency": "consistency, %",
    "lid": "LID",
    "tflops": "operations",
    "dr": "DR, %",
    "ndr": "NDR, %",
    "share": "operations by the paper’s count, %",
}
"""What is measured here; DR and NDR stand beside tables whose paper has neither."""


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One row: published cells by benchmark and field and over all of them, then measured cells by field."""

    label: str
    note: str
    published: tuple[tuple[str, ...], ...]
    overall: tuple[str, ...]
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
        overall: columns of the paper that belong to no benchmark, as headings.
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
    overall: tuple[str, ...]
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
    return tuple(_table(data, table_id, measured) for table_id in data.published)


def conventions(table_ids: Iterable[str]) -> tuple[str, ...]:
    """Return the cost profiles that these tables count operations by, each once; unknown tables are left out.

    >>> conventions(["quota-compare", "lofi-main"])
    ('quota-table4',)
    """
    known = _tables()
    found = [known[name].get("convention", "") for name in table_ids if name in known]
    return tuple(dict.fromkeys(name for name in found if name))


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
    """Run or variant name -> field -> (text, title)."""
    first = original_row(data)
    found = {ORIGINAL: {"accuracy": (first.score, f"n = {first.samples:,}"), "retention": ("100", "by definition")}}
    if ORIGINAL in data.arithmetic:
        from steadyvlm.report.inside import operations_text

        cost = data.arithmetic[ORIGINAL]
        found[ORIGINAL]["tflops"] = (operations_text(cost.flops), f"mean of {cost.n:,} answers; {cost.profile}")
    for arm in data.accelerated:
        found[arm.name] = _of_arm(arm.comparison)
    for row in inside_rows(data):
        found[row.name] |= {
            "consistency": (f"{row.consistency.text} {row.consistency.interval}", row.consistency.title),
            "lid": (f"{row.lid.text} {row.lid.interval}".strip(), row.lid.title),
            "tflops": (f"{row.operations} ({row.share} %)", row.counted),
        }
    for name, variant in data.variants.items():
        measures = {"accuracy": variant.score, "retention": variant.retained}
        measures |= {"dr": variant.changed, "ndr": variant.broken}
        shown = {field: of_estimate(estimate) for field, estimate in measures.items()}
        runs = found.get(variant.runs[0], {})
        found[name] = {**runs, **{field: _text(item, item.of) for field, item in shown.items()}}
    return found


def _of_arm(comparison: Comparison) -> dict[str, tuple[str, str]]:
    before, after = comparison.score_original, comparison.score_accelerated
    titled = f"n = {comparison.n:,}"
    share = percent(after / before) if before > 0 else DASH
    return {
        "accuracy": (f"{percent(after)} → {share}%", titled),
        "retention": (share, f"{percent(after)} of {percent(before)}; {titled}"),
        "dr": _text(of_rate(comparison.divergence_ratio)),
        "ndr": _text(of_rate(comparison.negative_divergence_ratio)),
    }


def _text(item: Measure, of: str = "") -> tuple[str, str]:
    return f"{item.text} {item.interval}".strip(), f"{of}; {item.title}" if of else item.title


def _shares(data: ReportData, convention: str) -> dict[str, tuple[str, str]]:
    """Run or variant name -> its operations in percent of the original's, counted as a paper counts."""
    counted = data.conventions.get(convention, {})
    found = {
        name: (percent(item.of_original), f"mean of {item.n:,} answers; {item.profile}")
        for name, item in counted.items()
    }
    return found | {name: found[variant.runs[0]] for name, variant in data.variants.items() if variant.runs[0] in found}


def _table(data: ReportData, table_id: str, measured: Mapping[str, Mapping[str, tuple[str, str]]]) -> PublishedTable:
    table = published_table(table_id)
    shares = _shares(data, table.get("convention", ""))
    fields = [name for name in FIELDS if name in table["rows"][0]]
    ours = table.get("measured", fields)
    first = table["rows"][0]
    rows = []
    for row in table["rows"]:
        arm = row.get("arm", "")
        mine = {**measured.get(arm, {}), **({"share": shares[arm]} if arm in shares else {})}
        cells = tuple(
            tuple(_cell(name, row[name][column], first[name][column], row is first) for name in fields)
            for column in range(len(table["benchmarks"]))
        )
        shown = [mine.get(name, (DASH, row.get("note", "not measured"))) for name in ours]
        rows.append(
            PublishedRow(
                row["label"],
                row.get("note", ""),
                cells,
                tuple(row.get("overall", ())),
                tuple(text for text, _ in shown),
                tuple(title for _, title in shown),
            )
        )
    return PublishedTable(
        id=table["id"],
        title=table["title"],
        source=table["source"],
        model=table["model"],
        benchmarks=tuple(table["benchmarks"]),
        fields=tuple(FIELDS[name] for name in fields),
        overall=tuple(table.get("overall", ())),
        measured_model=data.model,
        measured_fields=tuple(_MEASURED[name] for name in ours),
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
