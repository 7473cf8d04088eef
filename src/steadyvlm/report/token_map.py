"""Which visual tokens are left, place by place: the one geometry behind every drawing of kept tokens.

A picture is shown as panels. A panel is a raster of tokens on a picture: one for LLaVA and Qwen; for LLaVA-NeXT the
whole picture and, beside it, the map stitched from the crops, without its padding. A stage is what a selection left
from one layer on, as a state for every cell of every panel. Painters only colour cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from steadyvlm.records import KeptTokens
from steadyvlm.reduction.layout import ImageLayout

DROPPED = -1
"""State of a cell whose token is gone; a kept one has the number of tokens merged into it, 0 for none."""

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Panel:
    """Tokens that lie side by side on one picture.

    Attributes:
        name: what the picture is, "" when there is only one panel.
        rows, columns: of the raster.
        ids: number of the token in each cell, in raster order.
        newlines: number of the newline behind each row, () when rows have none.
        box: (left, top, right, bottom) of the raster as fractions of its picture; it may reach beyond.
    """

    name: str
    rows: int
    columns: int
    ids: tuple[int, ...]
    newlines: tuple[int, ...] = ()
    box: Box = WHOLE

    def on(self, box: Box) -> Panel:
        """Return the panel laid over another part of its picture."""
        return replace(self, box=box)


@dataclass(frozen=True, slots=True)
class Stage:
    """What is left from one layer on.

    Attributes:
        layer: the decoder layer it begins with; 0 also for a selection after the vision encoder.
        kept: tokens left.
        total: tokens of the unreduced picture.
        cells: for every panel the state of each cell.
        newlines: for every panel the state of the newline behind each row, () when there are none.
        cls: tokens merged into each CLS row that is left, tile by tile; None for one that is not.
    """

    layer: int
    kept: int
    total: int
    cells: tuple[tuple[int, ...], ...]
    newlines: tuple[tuple[int, ...], ...]
    cls: tuple[int | None, ...] = ()

    @property
    def caption(self) -> str:
        """The place and the number, such as "layer 8: 288 of 576"."""
        return f"layer {self.layer}: {self.kept:,} of {self.total:,}"

    @property
    def merges(self) -> bool:
        """Whether any token is made of several."""
        states = [state for group in (*self.cells, *self.newlines) for state in group]
        return any((state or 0) > 0 for state in [*states, *self.cls])

    @property
    def beside(self) -> str:
        """What is left besides patches, in words: CLS rows and newlines; "" when the picture has none of them."""
        found = []
        rows = sum(merged is not None for merged in self.cls)
        if rows:
            found.append("CLS" if len(self.cls) == 1 else f"CLS of {rows} of {len(self.cls)} tiles")
        ends = [state for group in self.newlines for state in group]
        if ends:
            found.append(f"{sum(state != DROPPED for state in ends)} of {len(ends)} row ends")
        return ", ".join(found)


def panels(layout: ImageLayout) -> tuple[Panel, ...]:
    """Return the rasters of a picture.

    >>> [(panel.name, panel.rows, panel.columns) for panel in panels(ImageLayout((24, 24)))]
    [('', 24, 24)]
    """
    rows, columns = layout.grid
    base = Panel("", rows, columns, tuple(range(rows * columns)))
    if layout.tiles == 1:
        return (base,)
    top, left, bottom, right = layout.window
    ids = tuple(layout.map_id(row, column) for row in range(top, bottom) for column in range(left, right))
    first = layout.tiles * layout.tokens_per_tile
    newlines = tuple(range(first + top, first + bottom)) if layout.newlines else ()
    return (replace(base, name="whole picture"), Panel("tiles", bottom - top, right - left, ids, newlines))


def stages(layout: ImageLayout, kept: Iterable[KeptTokens], *, image: int = 0) -> tuple[Stage, ...]:
    """Return what every selection left of one picture, in the order of the layers.

    Args:
        layout: of the picture.
        kept: the records of an answer.
        image: which picture of the prompt.
    """
    rasters, total = panels(layout), layout.visual_tokens
    return tuple(_stage(layout, rasters, total, record) for record in kept if record.image == image)


def unreduced(layout: ImageLayout) -> Stage:
    """Return the stage in which every token is there."""
    ids = layout.token_ids()
    return _stage(layout, panels(layout), len(ids), KeptTokens(0, 0, ids))


def runs_of_layers(tokens: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return (first layer, last layer, tokens) of runs of layers with the same number of tokens.

    >>> runs_of_layers([576, 576, 288])
    ((0, 1, 576), (2, 2, 288))
    """
    runs: list[tuple[int, int, int]] = []
    for layer, count in enumerate(tokens):
        first = runs.pop()[0] if runs and runs[-1][2] == count else layer
        runs.append((first, layer, count))
    return tuple(runs)


def _stage(layout: ImageLayout, rasters: Sequence[Panel], total: int, record: KeptTokens) -> Stage:
    merged = record.merged or (0,) * len(record.indices)
    left = dict(zip(record.indices, merged, strict=False))
    cells = tuple(_states(panel.ids, left) for panel in rasters)
    newlines = tuple(_states(panel.newlines, left) for panel in rasters)
    cls = tuple(left.get(-1 - tile) for tile in range(layout.tiles)) if min(left, default=0) < 0 else ()
    return Stage(record.layer, len(record.indices), total, cells, newlines, cls)


def _states(ids: Iterable[int], left: dict[int, int]) -> tuple[int, ...]:
    return tuple(left.get(number, DROPPED) for number in ids)
