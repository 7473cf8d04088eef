"""Which patches of a native-resolution tower attend to each other, for pictures of any size in one batch.

The patches of all pictures stand in one long sequence, a merged token being `merge * merge` consecutive patches. A
block attends either over whole pictures or inside square windows, whose last row and column may be narrower. Windows
are put in order of their length, so those of one length lie side by side and one batched attention call serves them
all, over slices and not over copies; pictures of one size are likewise served together.

Source: Bai et al. 2025 (Qwen2.5-VL), arXiv 2502.13923; transformers `vision_utils.get_vision_window_index`.
Differs: order of windows (nothing depends on it); no call per window.

Letters: S patches of all pictures, N merged tokens of all pictures.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Together:
    """Groups of patches, all of one length, that attend each within itself.

    Attributes:
        rows: [groups, length] int64, places in the packed sequence.
        start: the first place when `rows` counts up from it without a gap, so that a slice will do.
    """

    rows: Tensor
    start: int | None

    @classmethod
    def of(cls, rows: Tensor) -> Together:
        """Notice whether `rows` is a slice."""
        first = int(rows[0, 0])
        straight = torch.equal(rows.flatten(), torch.arange(first, first + rows.numel(), device=rows.device))
        return cls(rows, first if straight else None)


@dataclass(frozen=True, slots=True)
class Packing:
    """Order and grouping of the patches of several pictures.

    Attributes:
        order: [N] merged token at each place of the packed sequence.
        back: [N] place of each merged token; undoes `order`.
        places: [S, 2] row and column of each packed patch in its picture.
        pictures: groups that attend over whole pictures.
        windows: groups that attend inside windows; equal to `pictures` for a tower without windows.
        own: per picture, [patches] packed places of its patches in its own order.
    """

    order: Tensor
    back: Tensor
    places: Tensor
    pictures: tuple[Together, ...]
    windows: tuple[Together, ...]
    own: tuple[Tensor, ...]


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept indices must also serve a caller that trains
def pack(grids: tuple[tuple[int, int], ...], merge: int, window: int | None, device: torch.device) -> Packing:
    """Lay out pictures for the tower.

    Args:
        grids: (height, width) of each picture in merged tokens.
        merge: patches along one side of a merged token.
        window: merged tokens along one side of a window; None for a tower without windows.
        device: where the indices are needed.

    >>> packing = pack(((3, 3),), 1, 2, torch.device("cpu"))
    >>> packing.order.tolist()
    [8, 2, 5, 6, 7, 0, 1, 3, 4]
    >>> [list(group.rows.shape) for group in packing.windows]
    [[1, 1], [2, 2], [1, 4]]
    """
    raster = [torch.cartesian_prod(torch.arange(height), torch.arange(width)) for height, width in grids]
    sizes = [height * width for height, width in grids]
    if window is None:
        order, lengths = torch.arange(sum(sizes)), torch.tensor([], dtype=torch.int64)
    else:
        order, lengths = _by_window(grids, raster, window)
    back = order.argsort()
    inner = torch.cartesian_prod(torch.arange(merge), torch.arange(merge))
    patch = torch.arange(merge * merge)
    places = (torch.cat(raster)[order][:, None] * merge + inner).flatten(0, 1)
    own = [(rows[:, None] * merge**2 + patch).flatten() for rows in back.split_with_sizes(sizes)]
    by_size: dict[int, list[Tensor]] = {}
    for rows in own:
        by_size.setdefault(len(rows), []).append(rows)
    pictures = tuple(Together.of(torch.stack(rows).to(device)) for rows in by_size.values())
    windows = []
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, :1] * merge**2 + patch
        windows.append(Together.of(rows.reshape(-1, length * merge**2).to(device)))
    return Packing(
        order=order.to(device),
        back=back.to(device),
        places=places.to(device),
        pictures=pictures,
        windows=tuple(windows) or pictures,
        own=tuple(rows.to(device) for rows in own),
    )


def _by_window(grids: tuple[tuple[int, int], ...], raster: list[Tensor], window: int) -> tuple[Tensor, Tensor]:
    """Return the merged tokens window by window, shorter windows first, and the length of each one's window."""
    numbers, first = [], 0
    for (height, width), places in zip(grids, raster, strict=True):
        across = -(-width // window)
        numbers.append(first + places[:, 0] // window * across + places[:, 1] // window)
        first += across * -(-height // window)
    number = torch.cat(numbers)
    length = number.bincount()[number]
    order = number.argsort(stable=True)
    order = order[length[order].argsort(stable=True)]
    return order, length[order]
