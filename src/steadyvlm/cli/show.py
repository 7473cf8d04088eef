"""`steadyvlm show`: which visual tokens each method kept of one picture, layer by layer."""

from __future__ import annotations

from pathlib import Path

import click

RECIPES = ("fastv-k3-50", "visionzip-64", "pyramiddrop-8-16-24")
"""What is shown when no recipe is named."""


@click.command(short_help="Which tokens of a picture each method kept.")
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("-q", "--question", help="What to ask; needed with an IMAGE.")
@click.option("-m", "--model", default="pocket", show_default=True, help="A registered name, a folder, or a hub id.")
@click.option("-r", "--recipe", "recipes", multiple=True, help="A recipe or preset; give it once for each method.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("tokens.png"),
    show_default=True,
    help="A picture (.png, .jpg, .webp) or a page (.html).",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
def show(
    image: Path | None,
    question: str | None,
    model: str,
    recipes: tuple[str, ...],
    output: Path,
    max_new_tokens: int,
    device: str,
    dtype: str,
) -> None:
    """Ask a question about IMAGE with several methods, and write a picture of the tokens that each layer kept.

    The original comes first. Every layer at which a method acts is drawn: dropped tokens lie under a grey veil, tokens
    made of several are framed and counted. Without IMAGE a scene of the pocket benchmark is asked about.

    \b
    Examples:
      steadyvlm show
      steadyvlm show kitchen.jpg -q "How many cups are there?" -m llava-hf/llava-1.5-7b-hf -r fastv -r hired-20
      steadyvlm show -r "fastv(layer=5, keep_ratio=0.5)" -r divprune -o tokens.html
    """
    from steadyvlm.cli.show_data import asked, check_output, make_sheet, print_sheet, write_sheet

    check_output(output)
    picture, text = asked(image, question)
    sheet = make_sheet(
        model, picture, text, recipes or RECIPES, max_new_tokens=max_new_tokens, device=device, dtype=dtype
    )
    print_sheet(sheet)
    write_sheet(sheet, output)
    click.echo(f"Wrote {output}")
