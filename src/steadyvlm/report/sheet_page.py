"""A sheet as a page: the drawing of the report, and the same rules of what a page may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from steadyvlm import __version__
from steadyvlm.report.figures import steps
from steadyvlm.report.page import policy, safe_json, source, write_page
from steadyvlm.report.pictures import embed_image
from steadyvlm.report.sheet import Sheet, SheetRow, View
from steadyvlm.report.text import label, one_line, visible
from steadyvlm.report.token_json import panels_json, stage_json

_MAX_SIDE = 1344


def write_sheet_page(sheet: Sheet, path: str | Path) -> Path:
    """Write the page to `path` in one step and return the path.

    Raises:
        RunError: when the file cannot be written.
    """
    return write_page(render_sheet(sheet), Path(path), what="page")


def render_sheet(sheet: Sheet) -> str:
    """Return the page as text."""
    style, script = source("sheet.css", "tokens.css"), source("tokens.js", "sheet.js")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(label=label, one_line=one_line, visible=visible)
    return environment.from_string(source("sheet.html.j2")).render(
        version=__version__,
        sheet=sheet,
        rows=[_row(sheet, row) for row in sheet.rows],
        merges=any(stage.merges for row in sheet.rows for stage in row.stages),
        newlines=any(panel.newlines for row in sheet.rows for panel in row.view.panels),
        style=Markup(style),
        script=Markup(script),
        policy=policy(style, script),
        data=Markup(safe_json(_data(sheet))),
    )


def _row(sheet: Sheet, row: SheetRow) -> dict[str, Any]:
    """A method with its tokens of every layer as steps under the line of all of them."""
    profile = steps(row.per_layer, sheet.tokens)
    return {"row": row, "changed": sheet.changed(row), "profile": profile, "note": sheet.note(row)}


def _data(sheet: Sheet) -> dict[str, Any]:
    """What the script draws: every picture once."""
    views: list[View] = []
    for row in sheet.rows:
        if not any(row.view is view for view in views):
            views.append(row.view)
    pictures = [embed_image(picture, max_side=_MAX_SIDE) for view in views for picture in view.pictures]
    return {
        "pictures": [{"uri": item.uri, "w": item.width, "h": item.height} for item in pictures],
        "views": [_view(views, place) for place in range(len(views))],
        "rows": [
            {
                "view": next(place for place, view in enumerate(views) if view is row.view),
                "stages": [
                    {**stage_json(stage), "newlines": stage.newlines, "cls": stage.cls} for _, stage in row.shown
                ],
            }
            for row in sheet.rows
        ],
    }


def _view(views: list[View], place: int) -> dict[str, Any]:
    first = sum(len(view.pictures) for view in views[:place])
    return {"panels": panels_json(views[place].panels), "first": first}
