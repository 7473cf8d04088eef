"""`steadyvlm pocket`: the model and benchmark that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

ARCHITECTURES = ("llava", "qwen2_5_vl", "llava_next")
if TYPE_CHECKING:
    from PIL.Image import Image

EXAMPLE = "test-0-counting"
SPLITS = ("train", "validation", "test", "calibration")


@click.group(short_help="The model and benchmark that come with the package.")
def pocket() -> None:
    """Look at the pocket benchmark, measure the pocket models, and train them again."""


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


@pocket.command()
@click.option(
    "--model",
    default="pocket",
    show_default=True,
    help="'pocket', 'pocket-qwen', 'pocket-next', or the folder of a model trained on pocket scenes.",
)
@click.option("--split", type=click.Choice(SPLITS[1:]), default="test", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Ask only the first so many questions.")
@click.option("--device", default="auto", show_default=True)
@click.option("--dtype", default="auto", show_default=True)
def evaluate(model: str, split: str, limit: int | None, device: str, dtype: str) -> None:
    """Measure a pocket model per family, beside three ways of answering blindly.

    \b
    Examples:
      steadyvlm pocket evaluate --limit 1000
      steadyvlm pocket evaluate --model pocket-qwen
      steadyvlm pocket evaluate --model runs/pocket-training/llava
    """
    from steadyvlm.models.load import load
    from steadyvlm.pocket.benchmark import PocketTask
    from steadyvlm.pocket.evaluate import as_table
    from steadyvlm.pocket.evaluate import evaluate as measure

    click.echo(as_table(measure(load(model, device=device, dtype=dtype), PocketTask(split=split, limit=limit))))


@pocket.command()
@click.option(
    "--architecture",
    type=click.Choice(ARCHITECTURES),
    default="llava",
    show_default=True,
    help="llava begins from nothing, the others from the shipped llava.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Checkpoints and the finished model go here; a stopped run goes on from here.  "
    "[default: runs/pocket-training, or runs/pocket-training-ARCHITECTURE]",
)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Factor on the steps of every stage.")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that paint scenes.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice.")
@click.option(
    "--compile/--no-compile", default=True, show_default=True, help="Use torch.compile (needs a C++ compiler)."
)
@click.option("--device", default="auto", show_default=True, help="auto takes a GPU when there is one.")
def train(
    architecture: str, folder: Path | None, scale: float, workers: int, threads: int, compile: bool, device: str
) -> None:
    """Train a pocket model; llava takes about an hour and a half on two cores, the others 40 minutes.

    \b
    Examples:
      steadyvlm pocket train
      steadyvlm pocket train --architecture qwen2_5_vl
      steadyvlm pocket train --folder /tmp/quick --scale 0.05
    """
    from steadyvlm.pocket.training.main import TrainingOptions
    from steadyvlm.pocket.training.main import train as run

    folder = folder or Path("runs", "pocket-training" if architecture == "llava" else f"pocket-training-{architecture}")
    exported = run(folder, TrainingOptions(scale, compile, workers, threads, device, architecture), log=click.echo)
    click.echo(f"The model is at {exported}; measure it with: steadyvlm pocket evaluate --model {exported}")


def example_question() -> tuple[Image, str]:
    """Return a picture of the benchmark and a prompt about it, for commands that need no picture of the user's."""
    from steadyvlm.pocket.benchmark import scene_samples

    sample = next(sample for sample in scene_samples("test", 0) if sample.id == EXAMPLE)
    return sample.images[0].load(), sample.prompt
