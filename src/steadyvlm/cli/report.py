"""`steadyvlm report`: the summary and the page of a study that has run, wholly or in part."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steadyvlm.errors import UsageError

if TYPE_CHECKING:
    from steadyvlm.study.result import StudyResult


@click.command(short_help="The summary and the page of a study.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="FOLDER/report.html by default."
)
@click.option("--correct-threshold", type=float, help="Score from which an answer is right; by default the task's.")
@click.option("--images/--no-images", default=True, help="Leave the pictures out, for data that must not travel.")
def report(folder: Path, html_path: Path | None, correct_threshold: float | None, images: bool) -> None:
    """Print the summary of the study in FOLDER and write its report.

    No model runs and no torch is needed. A study that is still running can be looked at: arms that are not complete
    are named and left out. The folder of a suite gets a page for each model and one over all of them.

    \b
    Examples:
      steadyvlm report runs/pocket-demo
      steadyvlm report runs/pocket-demo --html pocket.html
    """
    from steadyvlm.cli.output import existing_study
    from steadyvlm.cli.suite import is_suite, publish_suite, read_manifest
    from steadyvlm.study.result import read_result

    if is_suite(folder):
        if html_path is not None:
            raise UsageError("a suite writes a page for each model and one over all; --html cannot name a single one.")
        for one in read_manifest(folder)[1]:
            result = read_result(existing_study(one))
            publish(result, one / "report.html", correct_threshold=correct_threshold, images=images)
        publish_suite(folder, correct_threshold=correct_threshold)
        return
    result = read_result(existing_study(folder))
    publish(result, html_path or folder / "report.html", correct_threshold=correct_threshold, images=images)


def publish(
    result: StudyResult,
    html_path: Path,
    *,
    notes: tuple[str, ...] = (),
    correct_threshold: float | None = None,
    images: bool = True,
) -> None:
    """Write the page of a study, print its summary, and say where the page is."""
    from steadyvlm.cli.progress import duration_text
    from steadyvlm.cli.report_data import study_report
    from steadyvlm.report import print_terminal, write_html

    data = study_report(result, correct_threshold=correct_threshold)
    data = dataclasses.replace(data, notes=[*notes, *data.notes])
    write_html(data, html_path, images=images)
    print_terminal(data)
    if result.times is not None:
        click.echo(
            f"Took {duration_text(result.times.wall_s)}: {duration_text(result.times.setup_s)} loading and preparing "
            f"models, {duration_text(result.times.model_s)} inside them, "
            f"{100 * result.times.harness_share:.1f} % everything else."
        )
    click.echo(f"Report: {html_path}")
