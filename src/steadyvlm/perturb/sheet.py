"""A contact sheet: one picture under every perturbation, a row each, severities from left to right.

The picture is first scaled to 224 pixels, the size the settings are made for, and every tile is shown pixel by pixel:
noise that a reader's eye should judge must not be averaged away by shrinking the sheet's tiles.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from steadyvlm.errors import InvalidOption
from steadyvlm.perturb.base import ImageResult, Profile, Status
from steadyvlm.perturb.image.apply import apply_image, level_of
from steadyvlm.perturb.image.frames import Picture, resized, to_pixels
from steadyvlm.perturb.image.work import Resources
from steadyvlm.perturb.suite import IMAGE

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 115, 122)
EDGE = (218, 220, 224)
WARNING = (176, 64, 0)
GAP = 8
MARGIN = 16
LABEL_WIDTH = 190
CAPTION_HEIGHT = 18
SEVERITIES = (1, 2, 3, 4, 5)
_RESOURCES = Resources()


def image_sheet(
    image: Picture,
    *,
    perturbations: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    side: int = 224,
    seed: int = 0,
    profile: Profile = "general",
    resources: Resources = _RESOURCES,
) -> Image.Image:
    """Return the contact sheet of a picture.

    Args:
        image: the picture, a Pillow picture or an array of bytes.
        perturbations: ids to show, in this order; by default all 20.
        severities: columns; a perturbation of one level fills the first.
        side: length of the picture's longer side on the sheet, in pixels.
        seed: another seed gives other draws.
        profile: `general` or `paper`.
        resources: files to use.

    Raises:
        UnknownName: for an id that does not exist.
        InvalidOption: for a severity that does not exist, no severity, or a side below 32.
        ImageError: if the picture cannot be used.

    >>> image_sheet(Image.new("RGB", (90, 60)), perturbations=["fog", "blank_image"], side=96).width
    838
    """
    if side < 32:
        raise InvalidOption(f"a sheet with pictures of {side} pixels was asked for; give at least 32.")
    if not severities:
        raise InvalidOption("a sheet without severities was asked for; give at least one of 1 to 5.")
    rows = [level_of(id, 1).perturbation for id in (perturbations or [row.id for row in IMAGE])]
    pixels = to_pixels(image)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    tall, wide = max(round(height * scale), 1), max(round(width * scale), 1)
    pixels = resized(pixels, tall, wide)

    pitch, drop = wide + GAP, tall + CAPTION_HEIGHT + GAP
    left = MARGIN + LABEL_WIDTH
    top = MARGIN + CAPTION_HEIGHT + GAP
    size = (left + (len(severities) + 1) * pitch - GAP + MARGIN, top + len(rows) * drop - GAP + MARGIN)
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(12)
    for column, text in enumerate(["clean", *(f"severity {severity}" for severity in severities)]):
        pen.text((left + column * pitch, MARGIN), text, INK, bold)
    for line, row in enumerate(rows):
        y = top + line * drop
        pen.text((MARGIN, y), row.id, INK, bold)
        pen.text((MARGIN, y + 20), f"{row.label} · {row.group}", FAINT, plain)
        sheet.paste(Image.fromarray(pixels), (left, y))
        for column, severity in enumerate(severities[: 1 if row.levels == 1 else None], start=1):
            at = severity if row.levels > 1 else 1
            result = apply_image(pixels, row.id, at, profile=profile, seed=seed, resources=resources)
            x = left + column * pitch
            sheet.paste(_fitted(result, wide, tall), (x, y))
            pen.rectangle((x - 1, y - 1, x + wide, y + tall), outline=EDGE)
            pen.text((x, y + tall + 2), _caption(result), WARNING, plain)
    return sheet


def _fitted(result: ImageResult, width: int, height: int) -> Image.Image:
    """The result at the size of its tile: only `paper` pixelation has another."""
    if result.image.shape[:2] == (height, width):
        return Image.fromarray(result.image)
    return Image.fromarray(resized(result.image, height, width))


def _caption(result: ImageResult) -> str:
    """What a reader must know about a tile; nothing for a change that was simply applied."""
    if result.status is Status.APPLIED:
        return ""
    detail = result.info.get(str(result.status), "")
    return f"{result.status}: {detail}" if detail else str(result.status)
