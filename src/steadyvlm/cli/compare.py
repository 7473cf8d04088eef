"""`steadyvlm compare`: two answer logs, question by question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steadyvlm.errors import UsageError

if TYPE_CHECKING:
    from steadyvlm.records import AnswerKind
    from steadyvlm.stability import Comparison, Rate

RUN = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Two answer logs, question by question.")
@click.argument("original", type=RUN)
@click.argument("accelerated", type=RUN)
@click.option("--control", type=RUN, help="A second run of the original: what changes there is noise.")
@click.option("--html", "html_path", type=FILE, help="Write a report with every changed answer.")
@click.option("--json", "json_path", type=FILE, help="Write all numbers as JSON.")
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="ROLE=NAME",
    help="Which column of the logs plays a role, such as prediction=output, where the automatic choice is wrong.",
)
@click.option(
    "--kind",
    type=click.Choice(["open", "open_ten", "choice", "yes_no"]),
    help="How answers in the logs are read; by default as the reference answers suggest.",
)
@click.option("--common-only", is_flag=True, help="Compare the questions both runs hold, instead of refusing.")
def compare(
    original: Path,
    accelerated: Path,
    control: Path | None,
    html_path: Path | None,
    json_path: Path | None,
    columns: tuple[str, ...],
    kind: AnswerKind | None,
    common_only: bool,
) -> None:
    """Compare the answers of ORIGINAL and ACCELERATED to the same questions.

    Each is a log of one answer a row (.jsonl, .json, .csv, .tsv) with an id, the prompt, the prediction and the
    reference answers; or an arm of a study, as FOLDER/ARM. They are joined by question, never by line; runs of other
    questions are refused. No model runs and no torch is needed.

    \b
    Examples:
      steadyvlm compare original.jsonl fast.jsonl
      steadyvlm compare original.jsonl fast.jsonl --html report.html
      steadyvlm compare original.jsonl fast.jsonl --control original-again.jsonl --json numbers.json
      steadyvlm compare original.csv fast.csv --column prediction=output --kind yes_no
      steadyvlm compare runs/before/original runs/after/original
    """
    from steadyvlm.cli.output import writing
    from steadyvlm.cli.report_data import runs_report
    from steadyvlm.report import print_terminal, write_html

    data = runs_report(original, accelerated, control, columns=_roles(columns), kind=kind, common_only=common_only)
    if json_path is not None:
        numbers = data.accelerated[0].comparison.to_json()
        with writing(json_path):
            json_path.write_text(json.dumps(numbers, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if html_path is not None:
        write_html(data, html_path)
    print_terminal(data)
    click.echo(_ratios(data.accelerated[0].comparison))
    for path in (html_path, json_path):
        if path is not None:
            click.echo(f"Wrote {path}")


def _roles(columns: tuple[str, ...]) -> dict[str, str] | None:
    roles = {}
    for text in columns:
        role, equals, name = text.partition("=")
        if not (role and equals and name):
            raise UsageError(f"--column {text} cannot be read; write ROLE=NAME, for example prediction=output.")
        roles[role] = name
    return roles or None


def _ratios(comparison: Comparison) -> str:
    """Return the two ratios with their counts, the form in which papers give them."""

    def line(name: str, rate: Rate) -> str:
        share = "not defined" if rate.denominator == 0 else f"{100 * rate.value:.2f} %"
        return f"{name:<34} {rate.numerator}/{rate.denominator} = {share}"

    return "\n".join(
        [
            line("Divergence ratio (DR)", comparison.divergence_ratio),
            line("Negative divergence ratio (NDR)", comparison.negative_divergence_ratio),
        ]
    )
