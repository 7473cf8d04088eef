"""`steadyvlm list`: the names that recipes and studies can use."""

from __future__ import annotations

import importlib.util

import click

TABLES = ("models", "reductions", "presets", "quantizers", "tasks", "perturbations", "studies")


@click.command("list", short_help="What recipes and studies can name.")
@click.argument("what", required=False)
def list_names(what: str | None) -> None:
    """List what recipes and studies can name, all of it or one table.

    The tables are models, reductions, presets, quantizers, tasks, perturbations and studies.

    Presets are published settings of reductions. The list of reductions ends with the model families each works on.

    \b
    Examples:
      steadyvlm list
      steadyvlm list reductions
    """
    from steadyvlm.cli.catalogue import entries

    for table in [what] if what else TABLES:
        found = entries(table)
        click.echo(f"{table}:")
        for entry in found:
            click.echo(f"  {entry.signature}\n      {entry.summary}")
    if what == "reductions":
        _say_where()


def _say_where() -> None:
    """The matrix of methods and model families; it asks the methods themselves, which needs torch."""
    if importlib.util.find_spec("torch") is None:
        click.echo("\nOn which model families each works is in docs/methods.md; listing it here needs torch.")
        return
    from steadyvlm.cli.matrix import matrix_lines, support_matrix

    click.echo("\non model families:")
    for line in matrix_lines(support_matrix()):
        click.echo(f"  {line}".rstrip())
