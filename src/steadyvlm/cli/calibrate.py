"""`steadyvlm calibrate`: quantise a model and derive the token schedule that belongs to it, as one recipe folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Quantise a model and make the pruning recipe for it.")
@click.option("--model", default="pocket", show_default=True, help="A registered name, a folder or a hub id.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for recipe.json, profile.json, profile.svg and the packed model; it must not exist yet.",
)
@click.option(
    "--quantizer",
    default="flatquant",
    show_default=True,
    help="As in a recipe: flatquant, hadamard_w4a4, rtn_w4a4, gptq or awq, with options; none only prunes.",
)
@click.option(
    "--calibration",
    default="auto",
    show_default=True,
    help="A registered calibration set or the path of one; auto is the set that belongs to the model.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=128, show_default=True, help="How many of its samples are used."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws the samples.")
@click.option(
    "--floor",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.3,
    show_default=True,
    help="Share of the visual tokens that is left in the end.",
)
@click.option(
    "--layers",
    default="auto",
    show_default=True,
    help="Candidate layers such as 2-6, counted from 0; auto chooses them by the profile.",
)
@click.option(
    "--schedule",
    type=click.Choice(["sensitivity", "uniform"]),
    default="sensitivity",
    show_default=True,
    help="Drop less where quantisation hurts more, or the same number behind each layer.",
)
@click.option("--tau", type=float, default=1.0, show_default=True, help="Temperature of the schedule.")
@click.option(
    "--quota",
    default="quota",
    show_default=True,
    help='Everything else about pruning, as in a recipe: "quota(weights=(0.5, 0.3, 0.2, 0.0))". Left out, the residual '
    "is measured where the deployed layers round (residual_domain='transformed'), if they do.",
)
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU when there is one.")
@click.option("--dtype", default="auto", show_default=True, help="Precision the model is loaded in.")
def calibrate(
    model: str,
    out: Path,
    quantizer: str,
    calibration: str,
    samples: int,
    seed: int,
    floor: float,
    layers: str,
    schedule: str,
    tau: float,
    quota: str,
    device: str,
    dtype: str,
) -> None:
    """Quantise a model, measure it, and write the recipe that runs quantisation and pruning together.

    The packed model and the recipe belong together: each names the other by its hash. What a quantiser learns about
    a block is kept, so a calibration that was stopped goes on where it was, with the same command.

    \b
    Examples:
      steadyvlm calibrate --out runs/joint
      steadyvlm calibrate --quantizer hadamard_w4a4 --floor 0.2 --layers 2-6 --out runs/joint-20
      steadyvlm answer --recipe runs/joint kitchen.jpg "How many cups are there?"
    """
    from steadyvlm.cli.calibrate_data import Wish, calibrate_lines
    from steadyvlm.cli.run import keep_loading_quiet

    keep_loading_quiet(model)
    wish = Wish(quantizer, quota, calibration, samples, seed, floor, layers, schedule, tau)
    for line in calibrate_lines(
        model, wish, out, device=device, dtype=dtype, say=lambda text: click.echo(text, err=True)
    ):
        click.echo(line)
