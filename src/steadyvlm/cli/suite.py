"""Folders of suites: which studies belong together, and the page over them.

runs/token-reduction/
suite.json              the suite's name and its folders, in order
index.html              the page over all models
pocket/  pocket-next/   a study each, as `steadyvlm.study.store` describes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from steadyvlm.cli.output import writing
from steadyvlm.errors import StoreError

MANIFEST = "suite.json"


def is_suite(root: Path) -> bool:
    """Whether a suite has begun in this folder."""
    return (root / MANIFEST).is_file()


def write_manifest(name: str, root: Path, folders: Sequence[Path]) -> None:
    """Remember which studies belong to the suite in `root`.

    Raises:
        StoreError: if another suite lives there.
        UsageError: if the folder cannot be written to.
    """
    if is_suite(root) and read_manifest(root)[0] != name:
        raise StoreError(f"{root} holds the suite '{read_manifest(root)[0]}', not '{name}'; choose another folder.")
    with writing(root / MANIFEST):
        value = {"suite": name, "folders": [folder.name for folder in folders]}
        (root / MANIFEST).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_manifest(root: Path) -> tuple[str, list[Path]]:
    """Return the name and the study folders of the suite in `root`.

    Raises:
        StoreError: if its manifest is damaged.
    """
    try:
        value = json.loads((root / MANIFEST).read_bytes())
        names = [str(name) for name in value["folders"]]
        name = str(value["suite"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{root / MANIFEST} is damaged ({error}); run the suite again to write it anew.") from None
    if any(Path(item).name != item or item in ("", "..") for item in names):
        raise StoreError(f"{root / MANIFEST} names folders outside its own; run the suite again to write it anew.")
    return name, [root / item for item in names]


def publish_suite(root: Path, *, correct_threshold: float | None = None) -> None:
    """Write the page over all studies that have something to compare, and say where it is."""
    from steadyvlm.cli.report_data import study_report
    from steadyvlm.report.suite import Chapter, page_link, write_suite_html
    from steadyvlm.study.result import read_result

    name, folders = read_manifest(root)
    chapters = []
    for folder in folders:
        try:
            result = read_result(folder)
        except StoreError:
            click.echo(f"{folder.name} is left out of the overview: its original is not complete.", err=True)
            continue
        chapters.append(Chapter(page_link(folder.name), study_report(result, correct_threshold=correct_threshold)))
    if chapters:
        click.echo(f"Overview: {write_suite_html(name, chapters, root / 'index.html')}")
