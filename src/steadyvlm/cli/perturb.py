"""`steadyvlm perturb`: a contact sheet of every perturbation and severity, of a picture or of a text."""

from __future__ import annotations

from pathlib import Path

import click

from steadyvlm.errors import UsageError


@click.command(short_help="Every perturbation of a picture or a text, to look at.")
@click.argument("image", type=click.Path(path_type=Path), required=False)
@click.option("-t", "--text", help="A text to perturb instead of a picture.")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A picture (.png, .jpg, .webp), by default sheet.png; with --text a page (.html), by default none.",
)
@click.option("-l", "--level", "levels", multiple=True, help="Only these: image/fog, text/char, image/noise@3, …")
@click.option("--profile", type=click.Choice(["general", "paper"]), default="general", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other draws.")
def perturb(
    image: Path | None, text: str | None, out: Path | None, levels: tuple[str, ...], profile: str, seed: int
) -> None:
    """Show IMAGE, or a text, under every perturbation at every severity.

    A picture becomes a contact sheet: one row per perturbation, severities from left to right. A text becomes a table
    in the terminal, and a page with --out. What was not simply applied (a no-op, a substitute for a missing model) is
    said beside it.

    \b
    Examples:
      steadyvlm perturb street.jpg --out sheet.png
      steadyvlm perturb street.jpg -l image/weather
      steadyvlm perturb --text "What is the man holding?"
      steadyvlm perturb --text "What is the man holding?" -l text/char@2 --out words.html
    """
    from steadyvlm.cli.perturb_data import text_rows, write_image_sheet, write_text_page

    if (image is None) == (text is None):
        raise UsageError('give either a picture or --text: `steadyvlm perturb street.jpg`, or `--text "What is it?"`.')
    if image is not None:
        target = out or Path("sheet.png")
        write_image_sheet(image, target, levels, profile=profile, seed=seed)
        click.echo(f"Wrote {target}")
        return
    assert text is not None  # one of the two is given
    rows = text_rows(text, levels, profile=profile, seed=seed)
    width = max(len(row.level) for row in rows)
    for row in rows:
        note = f"  [{row.note}]" if row.note else ""
        click.echo(f"{row.level:<{width}}  {row.shown}{note}")
    if out is not None:
        write_text_page(text, rows, out)
        click.echo(f"Wrote {out}")
