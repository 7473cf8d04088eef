"""`steadyvlm compare`: two answer logs, question by question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steadyvlm.stability import Comparison, Rate

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Two answer logs, question by question.")
@click.argument("original", type=FILE)
@click.argument("accelerated", type=FILE)
@click.option("--control", type=FILE, help="A second run of the original: what changes there is noise.")
@click.option("--html", "html_path", type=FILE, help="Write a report with every changed answer.")
@click.option("--json", "json_path", type=FILE, help="Write all numbers as JSON.")
def compare(
    original: Path, accelerated: Path, control: Path | None, html_path: Path | None, json_path: Path | None
) -> None:
    """Compare the answers of ORIGINAL and ACCELERATED to the same questions.

    Both are logs of one answer a row (.jsonl, .json, .csv, .tsv) with question_id, image, prompt, prediction and
    answers, or predictions that steadyvlm wrote. They are joined by question, never by line; logs of other
    questions are refused. No model runs and no torch is needed.

    \b
    Examples:
      steadyvlm compare original.jsonl fast.jsonl
      steadyvlm compare original.jsonl fast.jsonl --html report.html
      steadyvlm compare original.jsonl fast.jsonl --control original-again.jsonl --json numbers.json
    """
    from steadyvlm.cli.output import writing
    from steadyvlm.cli.report_data import log_report
    from steadyvlm.report import print_terminal, write_html

    data = log_report(original, accelerated, control)
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
