"""`steadyvlm lid`: what recipes do to the inside of a model, beside how many answers stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steadyvlm.recipes.lid import Scope, Source

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(short_help="What recipes do to the inside of a model.")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...")
@click.option("--model", default="pocket", show_default=True, help="A registered name, a folder or a hub id.")
@click.option("--task", default="pocket", show_default=True, help="Whose questions are read and answered.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Questions, whole pictures at a time."
)
@click.option(
    "--scope",
    type=click.Choice(["all", "visual"]),
    default="all",
    show_default=True,
    help="Tokens whose spectrum is taken.",
)
@click.option(
    "--rank",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.75,
    show_default=True,
    help="Share of the directions that counts.",
)
@click.option(
    "--tensor",
    type=click.Choice(["attention_output", "hidden"]),
    default="attention_output",
    show_default=True,
    help="What attention wrote, or the states that enter each layer.",
)
@click.option("--json", "json_path", type=FILE, help="Write all numbers, those of every question and layer too.")
@click.option("--figure", type=FILE, help="Write LID against consistency, and the spectra per layer, as SVG.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="float32", show_default=True, help="float32 keeps batches from mattering.")
def lid(
    recipes: tuple[str, ...],
    model: str,
    task: str,
    limit: int,
    scope: Scope,
    rank: float,
    tensor: Source,
    json_path: Path | None,
    figure: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Measure layer-wise inner disruption (LID) of each RECIPE against the original, and the answers that stay.

    Both read the same prompts. LID sums, over layers, how much the spectrum of what attention writes changed. With
    three recipes or more, the correlation with consistency (1 - DR) is given.

    \b
    Examples:
      steadyvlm lid "lofi(beta=4.0)"
      steadyvlm lid "lofi(beta=4.0)" "fastv(layer=3, keep_ratio=0.5)" "visionzip(dominant=32, contextual=8)"
      steadyvlm lid "lofi(beta=2.0)" --model path/to/llava --task "folder(path='questions')" --figure lid.svg
    """
    from steadyvlm.cli.lid_data import draw, lid_lines, measure_lid
    from steadyvlm.cli.output import writing
    from steadyvlm.cli.run import keep_loading_quiet
    from steadyvlm.models.load import load
    from steadyvlm.tasks import TASKS

    keep_loading_quiet(model)
    questions = TASKS.create(task)
    found = measure_lid(
        load(model, device=device, dtype=dtype),
        recipes,
        questions,
        limit=limit,
        scope=scope,
        rank=rank,
        tensor=tensor,
        say=lambda text: click.echo(text, err=True),
    )
    for line in lid_lines(found):
        click.echo(line)
    if json_path is not None:
        about = {"model": model, "task": task, "scope": scope, "rank": rank, "tensor": tensor, "dtype": dtype}
        with writing(json_path):
            json_path.write_text(json.dumps(about | found.to_json(), indent=1) + "\n", encoding="utf-8")
    if figure is not None:
        with writing(figure):
            figure.write_text(draw(found), encoding="utf-8")
    for path in (json_path, figure):
        if path is not None:
            click.echo(f"Wrote {path}")
