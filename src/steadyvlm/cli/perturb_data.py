"""What `steadyvlm perturb` shows: a sheet of pictures, or rows of texts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steadyvlm.cli.output import writing
from steadyvlm.errors import ConfigError, UsageError
from steadyvlm.perturb.base import Level, Modality, Status, check_profile
from steadyvlm.perturb.suite import expand
from steadyvlm.report.text import visible

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
PAGES = (".html", ".htm")

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Perturbed text</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>body {{ font: 15px/1.5 sans-serif; margin: 2em; max-width: 80em }} td {{ padding: 4px 14px 4px 0;
vertical-align: top; border-top: 1px solid #ddd }} td:first-child {{ font-family: monospace; white-space: nowrap }}
td:last-child {{ color: #8a4a00 }} td:nth-child(2) {{ white-space: pre-wrap; overflow-wrap: anywhere }}</style></head>
<body><h1>{text}</h1><table>
{rows}
</table></body></html>
"""


@dataclass(frozen=True, slots=True)
class TextRow:
    """One level of one text; `shown` is safe for a terminal, `note` says what was not simply applied."""

    level: str
    shown: str
    note: str


def write_image_sheet(image: Path, out: Path, levels: Sequence[str], *, profile: str, seed: int) -> None:
    """Write the contact sheet of a picture file.

    Raises:
        UsageError: for a file that is not a picture's, or a place that cannot be written to.
        ImageError: if the picture cannot be read.
        UnknownName: for a level that does not exist.
    """
    from steadyvlm.perturb.sheet import image_sheet
    from steadyvlm.tasks.sources import FileImage

    _check_ending(out, PICTURES)
    chosen = chosen_levels(levels, "image")
    names = list(dict.fromkeys(level.perturbation.id for level in chosen))
    severities = sorted({level.severity for level in chosen if level.perturbation.levels > 1}) or [1]
    sheet = image_sheet(
        FileImage(image).load(), perturbations=names, severities=severities, profile=check_profile(profile), seed=seed
    )
    with writing(out):
        sheet.save(out)


def text_rows(text: str, levels: Sequence[str], *, profile: str, seed: int) -> list[TextRow]:
    """Return the text at every level.

    Raises:
        UsageError: for an empty text.
        UnknownName: for a level that does not exist.
    """
    from steadyvlm.perturb.text import apply_text

    if not text.strip():
        raise UsageError("the text is empty; write a sentence after --text.")
    rows = []
    for level in chosen_levels(levels, "text"):
        result = apply_text(text, level.perturbation.id, level.severity, profile=check_profile(profile), seed=seed)
        detail = result.info.get(str(result.status), "")
        note = "" if result.status == Status.APPLIED else f"{result.status}{f': {detail}' if detail else ''}"
        rows.append(TextRow(str(level), visible(" ".join(result.text.split())), note))
    return rows


def write_text_page(text: str, rows: Sequence[TextRow], out: Path) -> None:
    """Write the rows as a small page.

    Raises:
        UsageError: for a file that is not a page's, or a place that cannot be written to.
    """
    _check_ending(out, PAGES)
    lines = [
        f"<tr><td>{row.level}</td><td>{html.escape(row.shown)}</td><td>{html.escape(row.note)}</td></tr>"
        for row in rows
    ]
    with writing(out):
        out.write_text(_PAGE.format(text=html.escape(visible(text)), rows="\n".join(lines)), encoding="utf-8")


def chosen_levels(levels: Sequence[str], modality: Modality) -> list[Level]:
    """Return the levels of one modality that are asked for; all of them when none is named.

    Raises:
        ConfigError: if a level of the other modality is among them.
    """
    found = expand(levels or [f"{modality}/all"])
    chosen = [level for level in found if isinstance(level, Level) and level.perturbation.modality == modality]
    if len(chosen) != len(found):
        other = next(str(level) for level in found if level not in chosen)
        kind = "a picture" if modality == "image" else "a text"
        raise ConfigError(f"'{other}' cannot be applied to {kind}; choose levels that begin with '{modality}/'.")
    return chosen


def _check_ending(out: Path, known: Sequence[str]) -> None:
    if out.suffix.lower() not in known:
        raise UsageError(f"cannot write {out}: use a name that ends in {', '.join(known)}.")
