"""From a picture and some recipes to a sheet, on the screen and in a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from steadyvlm.errors import InvalidOption, Unsupported, UsageError
from steadyvlm.report.sheet import Sheet, SheetRow, View
from steadyvlm.tasks.sources import FileImage

if TYPE_CHECKING:
    from PIL.Image import Image

    from steadyvlm.models.adapter import VisionLanguageModel
    from steadyvlm.recipes.accelerate import AcceleratedModel
    from steadyvlm.recipes.recipe import Recipe
    from steadyvlm.records import Generation
    from steadyvlm.reduction.layout import ImageLayout

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
PAGES = (".html", ".htm")


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written before a model is loaded, and make its folder.

    Raises:
        InvalidOption: for an ending that says neither picture nor page.
        UsageError: for a place where nothing can be written.
    """
    from steadyvlm.cli.output import writing

    if path.suffix.lower() not in (*PICTURES, *PAGES):
        raise InvalidOption(
            f"--output {path} is neither a picture nor a page; end it with one of {', '.join((*PICTURES, *PAGES))}."
        )
    with writing(path):
        if path.exists():
            path.open("ab").close()  # changes nothing


def asked(image: Path | None, question: str | None) -> tuple[Image, str]:
    """Return the picture and the question; a pocket scene where no picture is given.

    Raises:
        ImageError: when the picture cannot be read.
        UsageError: for a picture without a question.
    """
    if image is None:
        from steadyvlm.cli.pocket import example_question

        picture, ask = example_question()
        return picture, question or ask
    if not (question or "").strip():
        raise UsageError(f'nothing is asked about {image}. Add --question "…".')
    return FileImage(image).load(), str(question)


def make_sheet(
    model: str,
    picture: Image,
    question: str,
    recipes: Sequence[str],
    *,
    max_new_tokens: int = 16,
    device: str = "auto",
    dtype: str = "auto",
) -> Sheet:
    """Answer with the original and with every recipe.

    Raises:
        UsageError: for a recipe that does not exist or that this model cannot run, before anything is answered.
        SteadyVLMError: when an answer fails.
    """
    from steadyvlm.models.load import load
    from steadyvlm.recipes.recipe import Recipe as Parsed

    named = [(text.strip(), Parsed.parse(text)) for text in recipes]
    loaded = load(model, device=device, dtype=dtype)
    return sheet_of(loaded, picture, question, named, max_new_tokens=max_new_tokens)


def sheet_of(
    model: VisionLanguageModel,
    picture: Image,
    question: str,
    recipes: Sequence[tuple[str, Recipe]],
    *,
    max_new_tokens: int = 16,
) -> Sheet:
    """Answer with the original and with every (name, recipe) on a model that is loaded."""
    from steadyvlm.recipes.accelerate import accelerate, answer

    arms = [("original", "", accelerate(model))]
    for name, recipe in recipes:
        arm = accelerate(model, recipe)
        arms.append((name, "" if recipe.preset is None else str(arm.recipe), arm))
    views: dict[ImageLayout, View] = {}
    rows: list[SheetRow] = []
    first: Generation | None = None
    for name, stands_for, arm in arms:
        generation = answer(arm, picture, question, max_new_tokens=max_new_tokens)
        first = first or generation
        flops = _flops(arm, generation, first) if rows else None
        rows.append(SheetRow.of(name, generation, _view(arm, picture, views), flops=flops, recipe=stands_for))
    return Sheet(question, model.info.name, tuple(rows))


def print_sheet(sheet: Sheet) -> None:
    """Print answer, margin, tokens and cost of every row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from steadyvlm.report.terminal import WIDTH
    from steadyvlm.report.text import number, one_line

    click.echo(f"{one_line(sheet.model)}: {one_line(sheet.question)}")
    click.echo(f"The model sees {sheet.rows[0].view.about}.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("method", "answer", "margin", "visual tokens of the layers", "mean", "FLOPs"):
        justify: Literal["left", "right"] = "right" if heading in ("margin", "mean", "FLOPs") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in sheet.rows:
        flops = "–" if row.flops is None else f"{100 * row.flops:.1f} %"
        answer = one_line(row.answer, 60) or "(no text)"
        name = f"{one_line(row.name)}\n{one_line(row.recipe)}".rstrip()
        cells = (name, answer, f"{row.margin:.2f}", row.layers, number(row.mean), flops)
        table.add_row(*map(Text, cells))
    Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH).print(table)


def write_sheet(sheet: Sheet, path: Path) -> None:
    """Write the sheet as the ending of `path` says.

    Raises:
        UsageError: when it cannot be written there.
    """
    from steadyvlm.cli.output import writing
    from steadyvlm.report.sheet_image import sheet_image
    from steadyvlm.report.sheet_page import write_sheet_page

    if path.suffix.lower() in PAGES:
        write_sheet_page(sheet, path)
        return
    image = sheet_image(sheet)
    with writing(path):
        image.save(path, PICTURES[path.suffix.lower()])


def _view(arm: AcceleratedModel, picture: Image, views: dict[ImageLayout, View]) -> View:
    """What the model saw under this recipe; equal layouts share one view."""
    from steadyvlm.engine.signals import image_scale

    pixels = arm.model.preprocess(picture, scale=image_scale(arm.reduction))
    if pixels.layout not in views:
        views[pixels.layout] = View.of(pixels.layout, arm.model.pictures(pixels))
    return views[pixels.layout]


def _flops(arm: AcceleratedModel, accelerated: Generation, original: Generation) -> float | None:
    """Operations up to the first answer token over the original's; None for a model or method that is not counted."""
    from steadyvlm.cost import count, counts_of, scoring_of
    from steadyvlm.models.sizes import sizes_of

    try:
        sizes = sizes_of(arm.model.module.config)
    except Unsupported:
        return None
    executed = counts_of(accelerated)
    scoring = scoring_of(arm.recipe.reduction, executed, sizes)
    if scoring is None:
        return None
    return count(counts_of(accelerated, scoring), sizes).prefill / count(counts_of(original), sizes).prefill
