"""`steadyvlm status`: how far a study is."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="How far a study is.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def status(folder: Path) -> None:
    """Show how far the study in FOLDER is. It may be running; looking disturbs nothing.

    \b
    Example:
      steadyvlm status runs/pocket-demo
    """
    from steadyvlm.cli.output import existing_study
    from steadyvlm.cli.suite import is_suite, read_manifest

    for one in read_manifest(folder)[1] if is_suite(folder) else [folder]:
        _show(existing_study(one), folder)


def _show(folder: Path, root: Path) -> None:
    from steadyvlm.study.store import ResultStore

    store = ResultStore(folder)
    name, cells = store.manifest().name, store.status()
    width = max(len(f"{cell.entry.arm} on {cell.entry.task}") for cell in cells)
    for cell in cells:
        state = "complete" if cell.complete else "running or stopped" if cell.done else "not begun"
        failures = f", {cell.failures:,} failed" if cell.failures else ""
        label = f"{cell.entry.arm} on {cell.entry.task}"
        click.echo(f"{label:<{width}}  {cell.done:>7,} / {cell.entry.samples:<7,} {state}{failures}")
    complete = sum(cell.complete for cell in cells)
    done, total = sum(cell.done for cell in cells), sum(cell.entry.samples for cell in cells)
    click.echo(f"Study {name}: {complete} of {len(cells)} cells complete, {done:,} of {total:,} samples.")
    if complete < len(cells):
        click.echo(f"Complete it with: steadyvlm run STUDY --folder {root}")
