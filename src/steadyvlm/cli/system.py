"""`steadyvlm system`: size on disk, memory and energy of models, side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="Disk, memory and energy of models.")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--task", "tasks", multiple=True, default=("pocket",), show_default=True, help="May be given again.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=64, show_default=True, help="Questions, spread over the task."
)
@click.option("--recipe", default="keep_all", show_default=True, help="A token reduction that all of them run with.")
@click.option("--batch", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True, help="Precision of what is not packed.")
@click.option("--published/--no-published", default=True, help="Show the published table below.")
@click.option("--json", "json_path", type=FILE, help="Write all figures.")
def system(
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    limit: int,
    recipe: str,
    batch: int,
    device: str,
    dtype: str,
    published: bool,
    json_path: Path | None,
) -> None:
    """Measure what each MODEL occupies and draws while it answers, each in a process of its own.

    Sizes are those of the weight files; memory is the GPU's where there is one, else the process's; energy is what the
    driver's own counters say, and nothing where there are none.

    \b
    Examples:
      steadyvlm quantize --quantizer flatquant --out runs/pocket-int4
      steadyvlm system pocket runs/pocket-int4
      steadyvlm system llava-hf/llava-1.5-7b-hf llava-int4 --task "folder(path='questions')" --json system.json
    """
    from steadyvlm.cli.output import writing
    from steadyvlm.cli.system_data import measure_all, system_lines

    options = {"recipe": recipe, "limit": limit, "batch": batch, "device": device, "dtype": dtype}
    found = measure_all(models, tasks, options, say=lambda text: click.echo(text, err=True))
    for line in system_lines(found, published):
        click.echo(line)
    if json_path is not None:
        with writing(json_path):
            text = json.dumps([item.to_json() for item in found], indent=1)
            json_path.write_text(text + "\n", encoding="utf-8")
        click.echo(f"Wrote {json_path}")
