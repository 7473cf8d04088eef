"""One page over several studies that asked the same of different models: a table each, and links to their pages.

Nothing is averaged over models: their questions are the same, their answers are not comparable. What can be read
across is how the same method fares on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from steadyvlm import __version__
from steadyvlm.report.data import ReportData
from steadyvlm.report.inside import InsideRow, correlation_text, inside_rows
from steadyvlm.report.measures import of_rate
from steadyvlm.report.page import policy, source, write_page
from steadyvlm.report.summary import headline, noise_rate
from steadyvlm.report.tables import ArmRow, OriginalRow, arm_rows, original_row, samples_link
from steadyvlm.report.text import label, one_line, unbroken


@dataclass(frozen=True, slots=True)
class Chapter:
    """One model of the suite.

    Attributes:
        href: address of its own page, relative to the suite's.
        data: its report.
    """

    href: str
    data: ReportData


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One recipe over all models: its row in each, None where it was not run."""

    name: str
    cells: tuple[tuple[ArmRow, InsideRow | None, str] | None, ...]


def write_suite_html(title: str, chapters: Sequence[Chapter], path: str | Path) -> Path:
    """Write the page to `path` in one step and return the path.

    Raises:
        RunError: when the file cannot be written.
    """
    return write_page(render_suite(title, chapters), Path(path))


def render_suite(title: str, chapters: Sequence[Chapter]) -> str:
    """Return the page as text."""
    style = source("report.css")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(one_line=one_line, label=label, unbroken=unbroken)
    context = {
        "version": __version__,
        "title": title,
        "models": [_model(chapter) for chapter in chapters],
        "methods": method_rows(chapters),
        "style": Markup(style),
        "policy": policy(style, ""),
    }
    return environment.from_string(source("suite.html.j2")).render(context)


def method_rows(chapters: Sequence[Chapter]) -> tuple[MethodRow, ...]:
    """Return one row per recipe name, in the order in which they first appear."""
    by_model = [_by_name(chapter) for chapter in chapters]
    names = dict.fromkeys(name for rows in by_model for name in rows)
    return tuple(MethodRow(name, tuple(rows.get(name) for rows in by_model)) for name in names)


def page_link(folder: str) -> str:
    """Return the relative address of the page in `folder`.

    >>> page_link("pocket next")
    'pocket%20next/report.html'
    """
    return f"{quote(folder)}/report.html"


def _by_name(chapter: Chapter) -> Mapping[str, tuple[ArmRow, InsideRow | None, str]]:
    inside = {row.name: row for row in inside_rows(chapter.data)}
    return {
        row.name: (row, inside.get(row.name), chapter.href + samples_link(run=label(row.name), kind="changed"))
        for row in arm_rows(chapter.data)
        if not row.is_control
    }


def _model(chapter: Chapter) -> dict[str, Any]:
    first: OriginalRow = original_row(chapter.data)
    floor = noise_rate(chapter.data)
    return {
        "name": chapter.data.model,
        "href": chapter.href,
        "original": first,
        "headline": headline(chapter.data),
        "noise": of_rate(floor),
        "correlation": correlation_text(chapter.data.correlation),
        "notes": chapter.data.notes,
    }
