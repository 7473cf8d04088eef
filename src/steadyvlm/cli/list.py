"""`steadyvlm list`: the names that recipes and studies can use."""

from __future__ import annotations

import click

TABLES = ("models", "reductions", "quantizers", "tasks", "studies")


@click.command("list", short_help="What recipes and studies can name.")
@click.argument("what", required=False)
def list_names(what: str | None) -> None:
    """List what recipes and studies can name: models, reductions, quantizers, tasks, studies, or one of these.

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
