"""One self-contained page: every number, the figures, and the samples behind them, readable offline.

How a page is kept from doing anything but show itself is in `page`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from steadyvlm import __version__
from steadyvlm.report.data import ReportData
from steadyvlm.report.families import FEW_IN_FAMILY, HEAT_STEPS, FamilyRow, family_rows, heat, task_rows
from steadyvlm.report.figures import Point, column_axis, interval_mark, scatter, steps
from steadyvlm.report.fingerprint import fingerprint, short_hash
from steadyvlm.report.gallery import gallery
from steadyvlm.report.inside import correlation_text, inside_rows, lid_points, operations_text
from steadyvlm.report.inside_figures import disruption_scatter
from steadyvlm.report.measures import of_difference, of_rate
from steadyvlm.report.page import policy, safe_json, source, write_page
from steadyvlm.report.perturbations import perturbation_context
from steadyvlm.report.published import published_tables
from steadyvlm.report.summary import caveats, headline, insight, noise_rate, readings
from steadyvlm.report.tables import ArmRow, arm_rows, original_row, samples_link
from steadyvlm.report.text import label, one_line, percent, unbroken
from steadyvlm.report.variants import contrast_rows, variant_rows

_TEMPLATES = tuple(
    f"{name}.html.j2" for name in ("report", "macros", "methods", "inside", "variants", "published", "perturbations")
)


def write_html(data: ReportData, path: str | Path, *, images: bool = True, limit: int | None = None) -> Path:
    """Write the report to `path` in one step and return the path.

    Args:
        data: what to show.
        path: the file to write; missing folders are made, an existing file is replaced.
        images: False leaves every picture out, for data that must not travel.
        limit: samples per run and kind of flip that the page holds; None for a sensible number.

    Raises:
        RunError: when the file cannot be written.

    >>> write_html(data, "report.html")  # doctest: +SKIP
    """
    return write_page(render_html(data, images=images, limit=limit), Path(path))


def render_html(data: ReportData, *, images: bool = True, limit: int | None = None) -> str:
    """Return the page as text; arguments as in `write_html`."""
    sources = {name: source(name) for name in _TEMPLATES}
    style = source("report.css", "tokens.css", "perturbations.css")
    script = source("tokens.js", "gallery.js", "page.js")
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        percent=percent,
        one_line=one_line,
        label=label,
        unbroken=unbroken,
        short_hash=short_hash,
        operations=operations_text,
    )
    environment.globals.update(
        link=samples_link, mark=interval_mark, steps=steps, heat=heat, rate=of_rate, difference=of_difference
    )
    context = _context(data) | {
        "style": Markup(style),
        "script": Markup(script),
        "policy": policy(style, script),
        "gallery": Markup(safe_json(gallery(data, images=images, limit=limit))),
    }
    return environment.get_template("report.html.j2").render(context)


def _context(data: ReportData) -> dict[str, Any]:
    rows = arm_rows(data)
    accelerated = [row for row in rows if not row.is_control]
    families, tasks = family_rows(data.accelerated), task_rows(data.accelerated)
    levels = {arm.comparison.divergence_ratio.level for arm in data.arms}
    return {
        "version": __version__,
        "title": data.title,
        "model": data.model,
        "headline": headline(data),
        "insight": insight(data),
        "original": original_row(data),
        "rows": rows,
        "accelerated": accelerated,
        "axes": {
            "score": column_axis([row.score_change for row in rows]),
            "changed": column_axis([item for row in rows for item in (row.changed, row.excess)]),
            "broken": column_axis([item for row in rows for item in (row.broken, row.mended, row.broken_of_right)]),
        },
        "readings": readings(data),
        "caveats": caveats(data),
        "noise": of_rate(noise_rate(data)),
        "extremes": _extremes(accelerated),
        "figures": _figures(data, accelerated),
        **_inside(data),
        "variants": variant_rows(data),
        "contrasts": contrast_rows(data),
        "published": published_tables(data),
        **perturbation_context(data),
        "groups": _groups(tasks, families),
        "heat_steps": [percent(step) for step in HEAT_STEPS],
        "few": FEW_IN_FAMILY,
        "fingerprint": fingerprint(data.provenance),
        "level": f"{100 * max(levels):g}" if levels else "95",
        "thresholds": sorted({arm.comparison.correct_threshold for arm in data.arms}),
    }


def _extremes(rows: list[ArmRow]) -> dict[str, ArmRow]:
    """The runs that moved furthest in each respect, for the figures under the headline."""
    known = [row for row in rows if row.n]
    if not known:
        return {}
    return {
        "score": max(known, key=lambda row: abs(row.score_change.value)),
        "changed": max(known, key=lambda row: row.changed.value),
        "broken": max(known, key=lambda row: row.broken.value),
    }


def _figures(data: ReportData, rows: list[ArmRow]) -> dict[str, Markup]:
    """The scatter for wide and for narrow screens; a single run needs none."""
    if len(rows) < 2:
        return {"wide": Markup(""), "narrow": Markup("")}
    points = [
        Point(
            number=int(row.number),
            name=row.name,
            score=row.score_change,
            changed=row.changed,
            broken=row.broken,
            href=samples_link(run=label(row.name), kind="changed"),
        )
        for row in rows
    ]
    floor = noise_rate(data)
    noise = of_rate(floor) if floor is not None else None
    return {
        "wide": scatter(points, noise, width=860, height=440),
        "narrow": scatter(points, noise, width=360, height=400),
    }


def _inside(data: ReportData) -> dict[str, Any]:
    rows = inside_rows(data)
    points = lid_points(rows)
    return {
        "inside": rows,
        "arithmetic": data.arithmetic,
        "correlation": correlation_text(data.correlation),
        "disruption_figures": {
            "wide": disruption_scatter(points, width=860, height=420),
            "narrow": disruption_scatter(points, width=360, height=360),
        },
    }


def _groups(tasks: tuple[FamilyRow, ...], families: tuple[FamilyRow, ...]) -> list[dict[str, Any]]:
    groups = [
        {"name": "Tasks", "key": "task", "rows": tasks},
        {"name": "Families of questions", "key": "family", "rows": families},
    ]
    return [group for group in groups if group["rows"]]
