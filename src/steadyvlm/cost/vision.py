"""Multiplications of vision towers and connectors, from the grids of patches they really read.

A CLIP tile of S - 1 patches and a class row: per layer 4 S D D + 2 S S D + 2 S D M, and (S - 1) x inputs x D for the
patch embedding. A Qwen picture of S patches: the same with its own MLP, attention over the whole picture or, in the
windowed layers of Qwen2.5-VL, over windows of 8 x 8 patches that are ragged at the right and lower edge; then a merger
of two matrices on every 2 x 2 patches.

Source: Radford et al. 2021, arXiv 2103.00020; Wang et al. 2024, arXiv 2409.12191; Bai et al. 2025, arXiv 2502.13923;
transformers `modeling_clip.py`, `modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py`.
"""

from __future__ import annotations

from steadyvlm.cost.sizes import ClipSizes, ConnectorSizes, QwenVisionSizes


def clip(sizes: ClipSizes, grid: tuple[int, int], *, tiles: int = 1, layers: int | None = None) -> int:
    """Return the operations of a CLIP tower on `tiles` tiles of `grid` patches each.

    Args:
        sizes: of the tower.
        grid: (height, width) of a tile in patches.
        tiles: how many.
        layers: how many run; all of the checkpoint when None.

    >>> from steadyvlm.cost.sizes import published
    >>> clip(published("llava-1.5-7b").vision, (24, 24))
    190959108096
    """
    patches = grid[0] * grid[1]
    rows, width = patches + 1, sizes.width
    block = 4 * rows * width**2 + 2 * rows**2 * width + 2 * rows * width * sizes.mlp_width
    return tiles * ((sizes.layers if layers is None else layers) * block + patches * sizes.patch_inputs * width)


def connector(sizes: ConnectorSizes, tokens: int) -> int:
    """Return the operations of a two-layer connector on `tokens` tokens.

    >>> from steadyvlm.cost.sizes import published
    >>> connector(published("llava-1.5-7b").connector, 576)
    12079595520
    """
    return tokens * (sizes.inputs * sizes.hidden + sizes.hidden * sizes.outputs)


def qwen(sizes: QwenVisionSizes, grid: tuple[int, int]) -> int:
    """Return the operations of a Qwen tower on a grid of (height, width) patches, without the merger.

    >>> from steadyvlm.cost.sizes import published
    >>> qwen(published("qwen2.5-vl-7b").vision, (36, 36))
    840887664640
    """
    patches, width = grid[0] * grid[1], sizes.width
    dense = 4 * patches * width**2 + sizes.mlp_matrices * patches * width * sizes.mlp_width
    full = len(sizes.full_layers) if sizes.window else sizes.layers
    attention = 2 * width * (full * patches**2 + (sizes.layers - full) * _window_pairs(grid, sizes.window))
    return sizes.layers * dense + attention + patches * sizes.patch_inputs * width


def merger(sizes: QwenVisionSizes, grid: tuple[int, int]) -> int:
    """Return the operations of a Qwen merger on a grid of (height, width) patches.

    >>> from steadyvlm.cost.sizes import published
    >>> merger(published("qwen2.5-vl-7b").vision, (36, 36))
    14438891520
    """
    block = sizes.merge**2
    merged = block * sizes.width
    return grid[0] * grid[1] // block * (merged * merged + merged * sizes.out_width)


def _window_pairs(grid: tuple[int, int], window: int) -> int:
    """Return how many pairs of patches share a window; 0 without windows."""
    if not window:
        return 0
    rows, columns = (sum(side**2 for side in _sides(length, window)) for length in grid)
    return rows * columns  # a window of a x b patches has (a b)^2 pairs, and every a meets every b


def _sides(length: int, window: int) -> list[int]:
    """Cut a length into windows, the last one ragged."""
    return [min(window, length - start) for start in range(0, length, window)]
