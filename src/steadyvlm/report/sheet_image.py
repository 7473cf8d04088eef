"""A sheet as one picture: a card for every method, and in it every layer at which something changed.

Cards stand side by side as far as the widest lets them, with their pictures at one height.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from steadyvlm.report.painting import EXTRA, MERGED, PAPER, VEIL, Colour, font, paint, paint_newlines
from steadyvlm.report.sheet import Sheet, SheetRow, View
from steadyvlm.report.text import visible
from steadyvlm.report.token_map import Stage

INK: Colour = (21, 25, 30)
MUTED: Colour = (89, 98, 108)
LINE: Colour = (220, 223, 224)
BLUE: Colour = (11, 98, 168)
ORANGE: Colour = (184, 67, 11)

_Card = tuple[Image.Image, Image.Image]

SIDE = 336
"""Longer side of a panel in pixels, as near as whole pixels per cell allow."""
PER_LINE = 4
"""Stages side by side; more go to the next line of their card."""
_TEXT, _GAP, _EDGE = SIDE, 26, 36
_WIDTH = 4 * SIDE + 3 * _GAP
_BARS = 54


def sheet_image(sheet: Sheet) -> Image.Image:
    """Return the sheet as an RGB picture.

    >>> from steadyvlm.reduction.layout import ImageLayout
    >>> view = View.of(ImageLayout((2, 2)), [Image.new("RGB", (8, 8))])
    >>> sheet_image(Sheet("what is it?", "pocket", (SheetRow("original", view, (), "a cat", 2.0, (4, 4)),))).mode
    'RGB'
    """
    cards = [(_words(sheet, row), _stages(row)) for row in sheet.rows]
    width = max(_WIDTH, *(_across(card) for card in cards))
    parts = [_head(sheet, width), *(_line(line) for line in _lines(cards, width))]
    height = sum(part.height for part in parts) + _GAP * (len(parts) - 1)
    page = Image.new("RGB", (width + 2 * _EDGE, height + 2 * _EDGE), PAPER)
    draw, top = ImageDraw.Draw(page), _EDGE
    for place, part in enumerate(parts):
        if place:
            draw.line((_EDGE, top + _GAP // 2, _EDGE + width, top + _GAP // 2), fill=LINE)
            top += _GAP
        page.paste(part, (_EDGE, top))
        top += part.height
    return page


def _across(card: _Card) -> int:
    return max(part.width for part in card)


def _lines(cards: Sequence[_Card], width: int) -> list[list[_Card]]:
    """Cards in their order, as many in a line as fit."""
    lines: list[list[_Card]] = []
    room = 0
    for card in cards:
        needed = _across(card) + _GAP
        if not lines or needed > room:
            lines.append([])
            room = width + _GAP
        lines[-1].append(card)
        room -= needed
    return lines


def _line(cards: Sequence[_Card]) -> Image.Image:
    """Cards side by side: words above, stages below at one height."""
    words = max(card[0].height for card in cards)
    columns = []
    for text, stages in cards:
        column = Image.new("RGB", (max(text.width, stages.width), words + stages.height), PAPER)
        column.paste(text, (0, 0))
        column.paste(stages, (0, words))
        columns.append(column)
    return _beside(columns, _GAP)


def _head(sheet: Sheet, width: int) -> Image.Image:
    lines = _wrapped(visible(sheet.question, 400), width, size=24, bold=True)
    head = Image.new("RGB", (width, 34 * len(lines) + 62), PAPER)
    draw = ImageDraw.Draw(head)
    for place, line in enumerate(lines):
        draw.text((0, 34 * place), line, font=font(24, bold=True), fill=INK)
    top = 34 * len(lines) + 4
    about = f"{visible(sheet.model, 120)} sees {sheet.rows[0].view.about}"
    draw.text((0, top), about, font=font(14), fill=MUTED)
    left = 0
    rows = [stage for row in sheet.rows for stage in row.stages]
    entries: list[tuple[str, Colour | None]] = [("kept", None)]
    entries += [("dropped", VEIL)] * bool(rows)
    entries += [("made of several", MERGED)] * any(stage.merges for stage in rows)
    entries += [("end of a row", EXTRA)] * any(panel.newlines for row in sheet.rows for panel in row.view.panels)
    for label, colour in entries:
        box = (left, top + 27, left + 12, top + 39)
        draw.rectangle(box, fill=colour, outline=MUTED if colour is None else None)
        draw.text((left + 19, top + 25), label, font=font(13), fill=MUTED)
        left += 19 + round(draw.textlength(label, font=font(13))) + 22
    return head


def _stages(row: SheetRow) -> Image.Image:
    """The stages of a method, a few side by side."""
    pictures = [_stage(row.view, caption, stage) for caption, stage in row.shown]
    lines = [_beside(pictures[start : start + PER_LINE], _GAP) for start in range(0, len(pictures), PER_LINE)]
    whole = Image.new("RGB", (max(line.width for line in lines), sum(line.height + 10 for line in lines) - 10), PAPER)
    top = 0
    for line in lines:
        whole.paste(line, (0, top))
        top += line.height + 10
    return whole


def _words(sheet: Sheet, row: SheetRow) -> Image.Image:
    changed = sheet.changed(row)
    written: list[tuple[Sequence[str], int, bool, Colour]] = [
        (_wrapped(visible(row.name, 200), _TEXT, size=15, bold=True), 15, True, INK),
        (_wrapped(visible(row.recipe, 200), _TEXT, size=12) if row.recipe else (), 12, False, MUTED),
        (_wrapped(visible(row.answer, 200) or "(no text)", _TEXT, size=22), 22, False, ORANGE if changed else INK),
    ]
    if changed:
        was = visible(sheet.rows[0].answer, 100) or "(no text)"
        written.append((_wrapped(f"the original said: {was}", _TEXT, size=13), 13, False, ORANGE))
    written += [(_wrapped(text, _TEXT, size=13), 13, False, MUTED) for text in (row.facts, sheet.note(row)) if text]
    written = [entry for entry in written if entry[0]]
    height = sum(len(lines) * (size + 8) + 6 for lines, size, _, _ in written) + _BARS + 34
    image = Image.new("RGB", (_TEXT, height), PAPER)
    draw, top = ImageDraw.Draw(image), 0
    for lines, size, bold, colour in written:
        for line in lines:
            draw.text((0, top), line, font=font(size, bold=bold), fill=colour)
            top += size + 8
        top += 6
    _bars(draw, row, sheet.tokens, top)
    return image


def _bars(draw: ImageDraw.ImageDraw, row: SheetRow, whole: int, top: int) -> None:
    """Tokens of every layer as bars, beside the outline of all of them."""
    if not row.per_layer:
        return
    full, layers = max(whole, *row.per_layer), len(row.per_layer)
    step = _TEXT / layers
    foot = top + _BARS
    for layer, count in enumerate(row.per_layer):
        left, right = round(layer * step), max(round(layer * step), round((layer + 1) * step) - 2)
        draw.rectangle((left, top, right, foot), fill=(238, 240, 240))
        if count:
            draw.rectangle((left, foot - max(1, round(_BARS * count / full)), right, foot), fill=BLUE)
    draw.text((0, foot + 5), "layer 0", font=font(11), fill=MUTED)
    draw.text((round(layers * step) - 2, foot + 5), str(layers - 1), font=font(11), fill=MUTED, anchor="ra")


def _stage(view: View, caption: str, stage: Stage) -> Image.Image:
    """The panels of one stage side by side, its caption above and the CLS rows below."""
    painted: list[Image.Image] = []
    for panel, picture, cells, newlines in zip(view.panels, view.pictures, stage.cells, stage.newlines, strict=True):
        cell = max(4, SIDE // max(panel.rows, panel.columns))
        image = paint(picture, panel, cells, cell=cell)
        if newlines:
            image = _beside([image, paint_newlines(newlines, cell=cell, width=max(5, cell // 2))], 4)
        painted.append(image)
    body = _beside(painted, 10)
    notes = _chips(stage)
    width = max(body.width, round(font(13).getlength(caption)) + 4, notes.width if notes else 0)
    image = Image.new("RGB", (width, 26 + body.height + (notes.height + 8 if notes else 0)), PAPER)
    ImageDraw.Draw(image).text((0, 2), caption, font=font(13), fill=INK)
    image.paste(body, (0, 26))
    if notes:
        image.paste(notes, (0, 34 + body.height))
    return image


def _chips(stage: Stage) -> Image.Image | None:
    """A strip with the CLS row of every tile, filled when it is left."""
    if not stage.cls:
        return None
    side, measure = 20, font(12)
    label = "CLS"
    start = round(measure.getlength(label)) + 8
    strip = Image.new("RGB", (start + len(stage.cls) * (side + 4), side), PAPER)
    draw = ImageDraw.Draw(strip)
    draw.text((0, side / 2), label, font=measure, fill=MUTED, anchor="lm")
    for tile, merged in enumerate(stage.cls):
        left = start + tile * (side + 4)
        colour = VEIL if merged is None else MERGED if merged else EXTRA
        draw.rectangle((left, 0, left + side - 1, side - 1), fill=colour)
        if merged:
            draw.text((left + side / 2, side / 2), str(merged), font=font(9), fill=INK, anchor="mm")
    return strip


def _beside(images: Sequence[Image.Image], gap: int) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    whole = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        whole.paste(image, (left, 0))
        left += image.width + gap
    return whole


def _wrapped(text: str, width: int, *, size: int, bold: bool = False) -> list[str]:
    """Break a text into lines of at most `width` pixels, inside a word where there is no other way."""
    measure: Callable[[str], float] = font(size, bold=bold).getlength
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if measure(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and measure(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
