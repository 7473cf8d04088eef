"""`steadyvlm run`: a study from start, or from where it stopped, to its report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from steadyvlm.errors import SteadyVLMError, StoreError

if TYPE_CHECKING:
    from steadyvlm.study.backends import Loader
    from steadyvlm.study.plan import Study
    from steadyvlm.study.suite import Suite

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(short_help="Run a study, or go on with it, and write its report.")
@click.argument("study")
@click.option("--folder", type=FOLDER, help="Where answers are kept; runs/NAME by default.")
@click.option("--retry-failures", is_flag=True, help="Ask samples again that failed in an earlier run.")
def run(study: str, folder: Path | None, retry_failures: bool) -> None:
    """Run STUDY, a YAML file or the name of a shipped study, and write its report.

    Every answer is kept in the folder as it comes. Stop a study at any moment; the same command goes on where it
    stopped. What is complete is not computed again. A study of several models gets a folder and a report for each,
    and one page over all of them.

    \b
    Examples:
      steadyvlm run study.yaml
      steadyvlm run study.yaml --folder /data/runs/study
      steadyvlm run pocket-demo
      steadyvlm run pocket-reductions

    \b
    A study file:
      study: my-model
      model: path/to/llava-checkpoint
      tasks:
        - name: folder
          path: my-questions
      control:
        batch_size: 5
      recipes:
        - name: fastv-50
          recipe: fastv(layer=3, keep_ratio=0.5)
    """
    from steadyvlm.study.suite import Suite

    suite = Suite.from_yaml(study)
    root = folder or Path("runs") / suite.name
    if suite.is_single:
        run_study(suite.studies[0], root, retry_failures=retry_failures)
    else:
        run_suite(suite, root, retry_failures=retry_failures)


def run_suite(suite: Suite, root: Path, *, loader: Loader | None = None, retry_failures: bool = False) -> None:
    """Run the studies of a suite one after the other, each in its folder, and write a page over all of them.

    Raises:
        SteadyVLMError: what the first failing study raised, after the others have run.
    """
    from steadyvlm.cli.suite import publish_suite, write_manifest

    folders = suite.folders(root)
    write_manifest(suite.name, root, folders)
    errors = []
    for study, folder in zip(suite.studies, folders, strict=True):
        try:
            run_study(study, folder, loader=loader, retry_failures=retry_failures)
        except SteadyVLMError as error:
            errors.append((study.name, error))
            click.echo(f"{study.name}: {error} The other models go on.", err=True)
    publish_suite(root)
    if errors:
        name, first = errors[0]
        raise type(first)(f"{name}: {first}") from first


def run_study(
    study: Study,
    folder: Path,
    *,
    notes: tuple[str, ...] = (),
    loader: Loader | None = None,
    retry_failures: bool = False,
) -> None:
    """Run a study with progress on stderr, then print its summary and write `report.html` beside the answers.

    Args:
        study: what to ask.
        folder: where answers are kept.
        notes: sentences to add to the report.
        loader: opens the model; by default on this machine.
        retry_failures: ask samples again that failed in an earlier run.

    Raises:
        SteadyVLMError: whatever the study raises.
    """
    from steadyvlm.cli.progress import ProgressDisplay
    from steadyvlm.cli.report import publish
    from steadyvlm.study.runner import run as run_cells

    keep_loading_quiet(study.model)
    click.echo(f"Study {study.name}: model {study.model}, {len(study.arms)} recipes, answers in {folder}", err=True)
    progress = ProgressDisplay()
    try:
        with progress:
            result = run_cells(study, folder, progress=progress, loader=loader, retry_failures=retry_failures)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. Every finished batch is kept in {folder}; the same command goes on from there.", err=True
        )
        raise
    except SteadyVLMError:
        if progress.shown:
            _publish_what_is_complete(folder, notes)
        raise
    publish(result, folder / "report.html", notes=notes)


def _publish_what_is_complete(folder: Path, notes: tuple[str, ...]) -> None:
    """After a failure: the arms that are complete are worth a report; without the original there is none."""
    from steadyvlm.cli.report import publish
    from steadyvlm.study.result import read_result

    try:
        result = read_result(folder)
    except StoreError:
        return
    publish(result, folder / "report.html", notes=notes)


def keep_loading_quiet(model: str) -> None:
    """Two bars at once draw over each other; a download keeps its own, because it may take long."""
    from steadyvlm.models import MODELS

    if model in MODELS or Path(model).is_dir():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
