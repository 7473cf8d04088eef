"""`steadyvlm demo`: the main job on a model that comes with the package."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from steadyvlm.study.plan import Study

STUDY = "pocket-demo"


@click.command(short_help="A small trained model, six accelerations, one report.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs") / STUDY,
    show_default=True,
    help="Where answers and the report are kept.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most this many questions of every run.")
def demo(folder: Path, limit: int | None) -> None:
    """Accelerate a small trained model in six ways and see which answers change.

    Runs offline on a laptop: the original, the original once more as the noise floor, and six recipes answer the same
    questions. Ends with a table and a page that shows every changed answer with its picture. Run it again to resume.

    \b
    Examples:
      steadyvlm demo
      steadyvlm demo --limit 200 --folder /tmp/demo
    """
    from steadyvlm.cli.run import run_study
    from steadyvlm.study.plan import Study

    study, notes = _without_missing_libraries(Study.from_yaml(STUDY))
    run_study(study if limit is None else limited(study, limit), folder, notes=notes)


def limited(study: Study, limit: int) -> Study:
    """Return the study with at most `limit` questions for each task and run."""

    def fewer(value: int | None) -> int:
        return limit if value is None else min(value, limit)

    return replace(
        study,
        tasks=tuple(replace(task, limit=fewer(task.limit)) for task in study.tasks),
        arms=tuple(replace(arm, limit=arm.limit and fewer(arm.limit)) for arm in study.arms),
    )


def _without_missing_libraries(study: Study) -> tuple[Study, tuple[str, ...]]:
    """Leave out the recipes whose optional library is not installed, and say so."""
    if importlib.util.find_spec("bitsandbytes") is not None:
        return study, ()
    left_out = [arm.name for arm in study.arms if "llm_int8" in arm.recipe]
    note = f"{', '.join(left_out)} was left out: bitsandbytes is not installed (pip install 'steadyvlm[int8]')."
    click.echo(note, err=True)
    return replace(study, arms=tuple(arm for arm in study.arms if arm.name not in left_out)), (note,)
