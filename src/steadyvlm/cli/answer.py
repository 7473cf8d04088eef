"""`steadyvlm answer`: ask one question, with any recipe."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(short_help="Ask one question, with any recipe.")
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("question")
@click.option("-m", "--model", default="pocket", show_default=True, help="A registered name, a folder or a hub id.")
@click.option(
    "-r",
    "--recipe",
    default="keep_all",
    show_default=True,
    help="A recipe, or the folder that `steadyvlm calibrate` wrote.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
def answer(image: Path, question: str, model: str, recipe: str, max_new_tokens: int, device: str, dtype: str) -> None:
    """Answer QUESTION about IMAGE ("-" for none), and say what it took.

    \b
    Examples:
      steadyvlm answer kitchen.jpg "How many cups are there?"
      steadyvlm answer kitchen.jpg "How many cups are there?" --recipe runs/joint
      steadyvlm answer kitchen.jpg "Is it day?" -m llava-hf/llava-1.5-7b-hf -r "fastv(layer=3, keep_ratio=0.5)"
    """
    from steadyvlm.cli.run import keep_loading_quiet
    from steadyvlm.models.load import load
    from steadyvlm.recipes import Recipe, accelerate
    from steadyvlm.recipes import answer as ask
    from steadyvlm.report.text import one_line

    # a folder that holds a recipe is one; anything else is the text of one
    asked = Recipe(joint=recipe) if _is_recipe_file(Path(recipe)) else Recipe.parse(recipe)
    keep_loading_quiet(model)
    fast = accelerate(load(model, device=device, dtype=dtype), asked)
    found = ask(fast, None if str(image) == "-" else image, question, max_new_tokens=max_new_tokens)
    click.echo(one_line(found.text))
    for note in fast.notes:
        click.echo(note, err=True)
    layers = found.cost.visual_tokens_per_layer
    click.echo(
        f"{found.cost.prompt_tokens} prompt tokens, visual tokens per layer {_steps(layers)}, "
        f"{found.cost.cache_bytes:,} bytes of cache",
        err=True,
    )


def _is_recipe_file(path: Path) -> bool:
    # os.path answers for a text too long to be a path as well
    return os.path.isfile(path / "recipe.json") or (path.suffix == ".json" and os.path.isfile(path))


def _steps(layers: tuple[int, ...]) -> str:
    """Return runs of equal layers, such as "36 x 3, 17 x 5"."""
    runs: list[tuple[int, int]] = []
    for tokens in layers:
        if runs and runs[-1][0] == tokens:
            runs[-1] = (tokens, runs[-1][1] + 1)
        else:
            runs.append((tokens, 1))
    return ", ".join(f"{tokens} x {count}" for tokens, count in runs)
