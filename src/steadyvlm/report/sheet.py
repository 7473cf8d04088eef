"""What several methods left of one picture, side by side: the contents of `steadyvlm show`.

A sheet holds plain values and Pillow pictures; `sheet_image` paints it as one picture, `sheet_page` as a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from steadyvlm.errors import InvalidOption
from steadyvlm.records import Generation
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.report.text import count, number
from steadyvlm.report.token_map import Panel, Stage, panels, runs_of_layers, stages, unreduced

MOST_STAGES = 8
"""More changes than these are drawn at so many layers only, the first and the last among them."""


@dataclass(frozen=True)
class View:
    """A picture as the model saw it.

    Attributes:
        layout: how it was cut.
        panels: its rasters of tokens.
        pictures: RGB, one under each panel.
        whole: the stage in which nothing is dropped.
    """

    layout: ImageLayout
    panels: tuple[Panel, ...]
    pictures: tuple[Image.Image, ...]
    whole: Stage

    @property
    def about(self) -> str:
        """Its rasters and tokens in words, such as "24 × 24 places, 576 visual tokens"."""
        rasters = " and ".join(f"{panel.rows} × {panel.columns}" for panel in self.panels)
        return f"{rasters} places, {count(self.whole.total, 'visual token')}"

    @staticmethod
    def of(layout: ImageLayout, tiles: Sequence[Image.Image]) -> View:
        """Return the view of a picture from its layout and the pictures of its tiles, the whole picture first.

        Raises:
            InvalidOption: when there are more or fewer pictures than tiles.
        """
        if len(tiles) != layout.tiles:
            raise InvalidOption(f"the layout has {layout.tiles} tiles, but {len(tiles)} pictures were given.")
        pictures = [tiles[0].convert("RGB")]
        if layout.tiles > 1:
            pictures.append(_stitched(tiles[1:], layout))
        return View(layout, panels(layout), tuple(pictures), unreduced(layout))


@dataclass(frozen=True)
class SheetRow:
    """One method.

    Attributes:
        name: how it is called on the sheet.
        view: what the model saw; a method that shrinks the picture has one of its own.
        stages: what was left, layer by layer; none when every token stayed.
        answer: the answer's text.
        margin: how sure the model was of the first token, in nats.
        per_layer: visual tokens every decoder layer processed.
        flops: operations as a share of the original's, None when they were not counted.
        recipe: what a name stands for, "" when the name says it all.
    """

    name: str
    view: View
    stages: tuple[Stage, ...]
    answer: str
    margin: float
    per_layer: tuple[int, ...]
    flops: float | None = None
    recipe: str = ""

    @staticmethod
    def of(name: str, generation: Generation, view: View, *, flops: float | None = None, recipe: str = "") -> SheetRow:
        """Return the row of an answer to a question about one picture."""
        return SheetRow(
            name=name,
            view=view,
            stages=stages(view.layout, generation.kept),
            answer=generation.text,
            margin=generation.margin,
            per_layer=generation.cost.visual_tokens_per_layer,
            flops=flops,
            recipe=recipe,
        )

    @property
    def mean(self) -> float:
        """Visual tokens per decoder layer, on average."""
        return sum(self.per_layer) / max(1, len(self.per_layer))

    @property
    def shown(self) -> tuple[tuple[str, Stage], ...]:
        """Captions and stages to draw: the changes, or the whole picture when there was none."""
        if not self.stages:
            return ((f"every layer: {self.view.whole.kept:,}", self.view.whole),)
        last, most = len(self.stages) - 1, min(len(self.stages), MOST_STAGES)
        places = [round(step * last / max(1, most - 1)) for step in range(most)]
        return tuple((self.stages[place].caption, self.stages[place]) for place in places)

    @property
    def layers(self) -> str:
        """Tokens per layer in words.

        >>> from PIL import Image
        >>> view = View.of(ImageLayout((24, 24)), [Image.new("RGB", (24, 24))])
        >>> SheetRow("fastv", view, (), "red", 1.0, (576, 576, 288)).layers
        '0-1: 576; 2: 288'
        """
        return "; ".join(
            f"{first}: {tokens:,}" if first == last else f"{first}-{last}: {tokens:,}"
            for first, last, tokens in runs_of_layers(self.per_layer)
        )

    @property
    def facts(self) -> str:
        """Margin, mean and cost in one line."""
        cost = "" if self.flops is None else f" · {100 * self.flops:.1f} % FLOPs"
        return f"margin {self.margin:.2f} · mean {number(self.mean)} tokens{cost}"


@dataclass(frozen=True)
class Sheet:
    """Several methods on one picture.

    Attributes:
        question: what was asked.
        model: which model was asked.
        rows: the original first.
    """

    question: str
    model: str
    rows: tuple[SheetRow, ...]

    @property
    def tokens(self) -> int:
        """Visual tokens of the picture when nothing is reduced."""
        return self.rows[0].view.whole.total

    def note(self, row: SheetRow) -> str:
        """What a reader must know about a row's drawing; "" when it speaks for itself."""
        if row.view.layout != self.rows[0].view.layout:
            return f"sees {row.view.about}"
        drawn, changes = len(row.shown), len(row.stages)
        return f"{drawn} of {changes} changes are drawn" if changes > drawn else ""

    def changed(self, row: SheetRow) -> bool:
        """Whether a row's answer is another than the first row's."""
        return row.answer != self.rows[0].answer


def _stitched(tiles: Sequence[Image.Image], layout: ImageLayout) -> Image.Image:
    """Put the crops together to the picture they were cut from, and cut off its padding."""
    width, height = tiles[0].size
    rows, columns = layout.mosaic
    whole = Image.new("RGB", (columns * width, rows * height))
    for place, tile in enumerate(tiles):
        whole.paste(tile.convert("RGB"), ((place % columns) * width, (place // columns) * height))
    down, across = height / layout.grid[0], width / layout.grid[1]
    top, left, bottom, right = layout.window
    return whole.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))
