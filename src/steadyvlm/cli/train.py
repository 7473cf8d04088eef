"""`steadyvlm train`: what a method needs trained before it can run on a model."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(short_help="Train what a method needs before it can run.")
def train() -> None:
    """Train the parts of a method that must be learned; the model itself stays as it is.

    \b
    Example:
      steadyvlm train lvpruning --model pocket --task pocket --out runs/lvpruning
    """


@train.command()
@click.option("--model", default="pocket", show_default=True, help="A registered name, a folder or a hub id.")
@click.option(
    "--task",
    default="pocket",
    show_default=True,
    help="Questions with references to learn from; a task with splits gives its training split.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/lvpruning"),
    show_default=True,
    help="Checkpoints and the finished modules go here; a stopped run goes on from here.",
)
@click.option("--steps", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Questions per step.")
@click.option("--learning-rate", type=float, default=2e-3, show_default=True, help="Peak, for AdamW.")
@click.option(
    "--ratio-weight",
    type=float,
    default=2.0,
    show_default=True,
    help="Weight of meeting the shares to keep against answering well.",
)
@click.option(
    "--inner",
    type=click.IntRange(min=0),
    default=0,
    help="Width inside a module; 0 takes a quarter of the decoder's, at least 64.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU when there is one.")
@click.option("--dtype", default="auto", show_default=True, help="float32 or bfloat16.")
def lvpruning(
    model: str,
    task: str,
    out: Path,
    steps: int,
    batch: int,
    learning_rate: float,
    ratio_weight: float,
    inner: int,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """Train the modules of LVPruning on a frozen model; about 20 minutes of one core for 500 steps on pocket.

    \b
    Examples:
      steadyvlm train lvpruning --model pocket --task pocket --steps 500 --ratio-weight 10
      steadyvlm train lvpruning --model llava-hf/llava-1.5-7b-hf --task "folder(path='questions')" --out runs/modules
    """
    from steadyvlm.cli.run import keep_loading_quiet
    from steadyvlm.models.load import load
    from steadyvlm.training.lvpruning import TrainingOptions, training_task
    from steadyvlm.training.lvpruning import train as run

    keep_loading_quiet(model)
    options = TrainingOptions(
        steps=steps, batch=batch, learning_rate=learning_rate, ratio_weight=ratio_weight, inner=inner, seed=seed
    )
    questions = training_task(task)
    run(load(model, device=device, dtype=dtype), questions, out, options, log=click.echo)
    click.echo(f"The modules are in {out}; use them with: lvpruning(modules={str(out)!r})")
