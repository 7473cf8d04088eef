"""How a picture became visual tokens: tiles, grids, padding, and a number for every token.

One picture is one grid of tokens (LLaVA, Qwen), or a base tile that shows all of it followed by crops that lie on a
mosaic (LLaVA-NeXT). The stitched crops form the *map*, of which the padded edges are cut off ("unpadded") and whose
rows end with a learned newline.

Numbers, used in records and pictures: token p of tile t is `t * tokens_per_tile + p` in raster order, the CLS row of
tile t is `-1 - t`, and the newline after map row r is `tiles * tokens_per_tile + r`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """Shape of one picture inside the model.

    Attributes:
        grid: (height, width) of one tile, in tokens.
        mosaic: (rows, columns) of the crops behind the base tile; (0, 0) when the picture is one grid.
        window: (top, left, bottom, right) of the map that shows picture and not padding, in tokens, half open.
        newlines: whether each row of the window ends with a newline token when nothing is reduced.
        has_cls: whether every tile's rows start with a CLS row.
        cls_is_token: whether that row is a visual token when nothing is reduced.
        picture: (height, width) of the picture before it was resized, in pixels; (0, 0) when it is not known.
        merge: patches of the tower that one token stands for, along each axis. A tower that merges does so in its
            connector, so that its rows have been through it before anything is reduced.

    >>> ImageLayout((24, 24), has_cls=True).visual_tokens
    576
    >>> next_ = ImageLayout((24, 24), (2, 2), window=(6, 0, 42, 48), newlines=True, has_cls=True)
    >>> next_.tiles, next_.visual_tokens
    (5, 2340)
    """

    grid: tuple[int, int]
    mosaic: tuple[int, int] = (0, 0)
    window: tuple[int, int, int, int] = (0, 0, 0, 0)
    newlines: bool = False
    has_cls: bool = False
    cls_is_token: bool = False
    picture: tuple[int, int] = (0, 0)
    merge: int = 1

    @property
    def patch_grid(self) -> tuple[int, int]:
        """(height, width) of one tile in patches of the tower, before merging."""
        return self.grid[0] * self.merge, self.grid[1] * self.merge

    @property
    def tokens_per_tile(self) -> int:
        """Patches (merged, where the tower merges) of one tile."""
        return self.grid[0] * self.grid[1]

    @property
    def tiles(self) -> int:
        """P, the base tile included."""
        return 1 + self.mosaic[0] * self.mosaic[1]

    @property
    def rows(self) -> int:
        """R, encoder rows of all tiles."""
        return self.tiles * (self.tokens_per_tile + self.has_cls)

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the stitched crops, padding included, in tokens."""
        return self.mosaic[0] * self.grid[0], self.mosaic[1] * self.grid[1]

    @property
    def visual_tokens(self) -> int:
        """Visual tokens in the prompt when nothing is reduced."""
        return len(self.token_ids())

    def tile(self) -> ImageLayout:
        """Return the layout of a single tile."""
        return replace(self, mosaic=(0, 0), window=(0, 0, 0, 0), newlines=False)

    def row_ids(self) -> tuple[int, ...]:
        """Return the number of every encoder row, tile after tile."""
        size = self.tokens_per_tile
        found: list[int] = []
        for tile in range(self.tiles):
            found += [-1 - tile] * self.has_cls
            found += range(tile * size, (tile + 1) * size)
        return tuple(found)

    def token_ids(self) -> tuple[int, ...]:
        """Return the number of every visual token, in prompt order, when nothing is reduced."""
        return _token_ids(self)

    def map_id(self, row: int, column: int) -> int:
        """Return the number of the token at a place of the stitched map."""
        height, width = self.grid
        tile = 1 + (row // height) * self.mosaic[1] + column // width
        return tile * self.tokens_per_tile + (row % height) * width + column % width

    def row_of(self, token_id: int) -> int:
        """Return the encoder row of a patch or CLS number; a newline has none and raises ValueError.

        >>> ImageLayout((2, 2), has_cls=True).row_of(3)
        4
        """
        extra = int(self.has_cls)
        if token_id < 0:
            return (-1 - token_id) * (self.tokens_per_tile + extra)
        tile, patch = divmod(token_id, self.tokens_per_tile)
        if tile >= self.tiles:
            raise ValueError(f"token {token_id} is a newline and has no encoder row.")
        return tile * (self.tokens_per_tile + extra) + extra + patch


@functools.lru_cache(maxsize=256)
def _token_ids(layout: ImageLayout) -> tuple[int, ...]:
    found = [-1] * (layout.has_cls and layout.cls_is_token) + list(range(layout.tokens_per_tile))
    if layout.tiles == 1:
        return tuple(found)
    top, left, bottom, right = layout.window
    newline = layout.tiles * layout.tokens_per_tile
    for row in range(top, bottom):
        found += [layout.map_id(row, column) for column in range(left, right)]
        found += [newline + row] * layout.newlines
    return tuple(found)
