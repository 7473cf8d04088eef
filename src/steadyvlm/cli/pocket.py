"""`steadyvlm pocket`: the model and benchmark that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

SPLITS = ("train", "validation", "test", "calibration")


@click.group(short_help="The model and benchmark that come with the package.")
def pocket() -> None:
    """Look at the pocket benchmark, and train the pocket model again."""


@pocket.command()
@click.argument("index", type=click.IntRange(min=0))
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("scene.png"),
    show_default=True,
    help="Where the picture is written.",
)
def sample(index: int, split: str, out: Path) -> None:
    """Write scene INDEX of a split as a picture, and print a question of every family about it.

    \b
    Example:
      steadyvlm pocket sample 7 --out scene.png
    """
    from typing import cast

    import numpy as np
    from PIL import Image

    from steadyvlm.cli.output import writing
    from steadyvlm.pocket.questions import FAMILIES
    from steadyvlm.pocket.scenes import Split, make_scene
    from steadyvlm.seeding import stable_seed

    scene = make_scene(cast(Split, split), index)
    with writing(out):
        Image.fromarray(scene.pixels).save(out)
    for family, ask in FAMILIES.items():
        question = ask(np.random.default_rng(stable_seed("pocket sample", split, index, family)), scene)
        if question is not None:
            click.echo(f"{family:<22} {' '.join(question.prompt.split())} -> {question.reply}")
    click.echo(f"Wrote {out}")
