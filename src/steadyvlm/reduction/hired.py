"""HiRED: share a fixed number of tokens among the tiles of a picture, then keep what CLS attends to in each.

The base tile, which shows the whole picture, gets a share `alpha` of the tokens. The first layer of the tower says
where the content of the picture lies, and the crops share the rest accordingly. In each tile the patches that CLS
attends to most, in the layer the features come from, stay; they are passed on tile 0 first, then in raster order of the
map that the crops form. A picture of one tile (LLaVA) just keeps its top patches.

Source: Arif et al. 2024, "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution
Vision-Language Models", arXiv 2408.10945 (AAAI 2025), released code hasanar1f/HiRED at 502d6dd. Published settings:

    hired(keep_ratio=0.2)    115 of 576
    hired(keep_ratio=0.1)     57 of 576
    hired(keep_ratio=0.4)    230 of 576

Differs: `compat=True` keeps the tokens the released code keeps, defects included. Without it, and only for pictures of
several tiles:
    - The content score of a crop is the number of the base tile's strongest patches that lie where the crop lies. The
      code counts contiguous runs of the flattened tile, which are horizontal bands. (The paper describes a sum of
      attention; the code counts, and so do we.)
    - Crops are stitched in the order in which they were cut. The code swaps rows and columns of the mosaic, so that of
      a mosaic that is not square the wrong parts are cut off as padding.
    - Only patches that show picture, not padding, can be kept. The code chooses first and loses those in the padding.
    - The number of tokens is met exactly: what rounding or a full tile leaves over goes to the largest fractions and
      to tiles with room. The code loses it.
    - A share for the crops without any content score is split evenly (not-a-number in the code).
Both: scores are float32 (float16 there), ties go to the lower index, `keep_ratio=1` leaves the model as it is,
newlines included, and no newlines are set otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.options import checked_flag, checked_ratio
from steadyvlm.reduction.tensor_ops import sum_over_heads, top_k, trunc_budget
from steadyvlm.reduction.tiles import in_window, is_tiled, map_order, rows_per_tile

_NO_CLS = "It ranks patches by the attention of a CLS row in two layers, and the tower of this family has no such row."


@dataclass(frozen=True, slots=True)
class HiRED:
    """Keep a fixed share of the patches, spread over the tiles by content.

    Attributes:
        keep_ratio: fraction of the patches of all tiles that stays, 0 to 1, rounded down.
        alpha: share of these for the base tile, 0 to 1; without effect on a picture of one tile.
        compat: keep what the released code keeps, see above.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> signals = Signals(5, has_cls=True, cls_attention=torch.tensor([[0.3, 0.1, 0.2, 0.1, 0.2]]))
    >>> HiRED(keep_ratio=0.4).select(signals, Site()).keep
    tensor([1, 3])
    """

    keep_ratio: float = 0.2
    alpha: float = 0.5
    compat: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "keep_ratio", checked_ratio("hired", "keep_ratio", self.keep_ratio))
        object.__setattr__(self, "alpha", checked_ratio("hired", "alpha", self.alpha))
        checked_flag("hired", "compat", self.compat)

    @property
    def needs(self) -> frozenset[Signal]:
        """What CLS attends to in the feature layer ranks, in the first layer it finds content."""
        return frozenset({Signal.CLS_ATTENTION, Signal.FIRST_CLS_ATTENTION})

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Nowhere: LLaVA and LLaVA-NeXT are the authors' own cases."""
        return {}

    @property
    def refusals(self) -> Mapping[str, str]:
        """Towers without a CLS row."""
        return {"qwen2_vl": _NO_CLS, "qwen2_5_vl": _NO_CLS}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the vision encoder; nowhere when everything stays."""
        return () if self.keep_ratio == 1 else (Site(),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return the kept patches: in raster order, of tiles base tile first."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        scores = sum_over_heads(signals.require(Signal.CLS_ATTENTION))
        if not is_tiled(signals):
            first = int(signals.has_cls)
            return Selection(top_k(scores, trunc_budget(signals.num_tokens, self.keep_ratio)) + first)
        assert signals.layout is not None
        content = sum_over_heads(signals.tiles()[0].require(Signal.FIRST_CLS_ATTENTION))
        if self.compat:
            return Selection(self._released(scores, content, signals.layout))
        return Selection(self._corrected(scores, content, signals.layout))

    def _budgets(self, layout: ImageLayout) -> tuple[int, int]:
        """Return how many tokens the base tile and the crops together should keep."""
        size = layout.tokens_per_tile
        total = trunc_budget(layout.tiles * size, self.keep_ratio)
        base = min(int(total * self.alpha), size)
        return base, total - base

    def _strongest(self, content: Tensor) -> Tensor:
        """Return [N] bool: the base tile's patches of most content."""
        strongest = torch.zeros_like(content, dtype=torch.bool)
        strongest[top_k(content, trunc_budget(content.numel(), 1 - self.alpha))] = True
        return strongest

    def _corrected(self, scores: Tensor, content: Tensor, layout: ImageLayout) -> Tensor:
        size, crops = layout.tokens_per_tile, layout.tiles - 1
        base, rest = self._budgets(layout)
        shown = in_window(_patch_rows(layout)[size:], layout).view(crops, size)
        votes = torch.bincount(_crop_of(layout)[self._strongest(content).cpu()], minlength=crops)
        shares = apportion(rest, votes.tolist(), shown.sum(dim=1).tolist())
        budgets = [min(size, base + rest - sum(shares)), *shares]
        hidden = torch.cat([torch.zeros_like(shown[:1]), ~shown]).to(scores.device)
        scores = scores.view(layout.tiles, size).masked_fill(hidden, -torch.inf)
        return _packed(_top_rows(scores, budgets, layout), layout)

    def _released(self, scores: Tensor, content: Tensor, layout: ImageLayout) -> Tensor:
        size, crops = layout.tokens_per_tile, layout.tiles - 1
        base, rest = self._budgets(layout)
        rest = min(rest, crops * size)
        strongest = self._strongest(content).to(torch.float32)
        bands = torch.arange(size, device=scores.device) * crops // size
        votes = torch.zeros(crops, device=scores.device).index_add_(0, bands, strongest)
        even = torch.full_like(votes, 1 / crops)
        shares = torch.where(votes.sum() > 0, votes / votes.sum().clamp_min(1), even) * rest
        budgets = [base, *(min(int(share), size) for share in shares.tolist())]
        kept = _top_rows(scores.view(layout.tiles, size), budgets, layout)
        return _packed(kept, _swapped(layout))


def apportion(total: int, votes: Sequence[int], room: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `votes` without exceeding `room`, the rest by largest fraction, lower index first.

    Where votes and room do not meet, what is left is split evenly; what no place has room for is not given out.

    >>> apportion(10, [1, 1, 1], [9, 9, 9])
    [4, 3, 3]
    >>> apportion(10, [8, 1, 1], [3, 9, 9]), apportion(5, [0, 0], [9, 9]), apportion(5, [1, 0], [1, 2])
    ([3, 4, 3], [3, 2], [1, 2])
    """
    given = [0] * len(votes)
    while (left := total - sum(given)) > 0:
        vacant = [place for place, limit in enumerate(room) if given[place] < limit]
        if not vacant:
            break
        weights = {place: votes[place] for place in vacant}
        if not any(weights.values()):
            weights = dict.fromkeys(vacant, 1)
        quotas = {place: divmod(left * weight, sum(weights.values())) for place, weight in weights.items()}
        full = [place for place in vacant if given[place] + quotas[place][0] > room[place]]
        if full:  # these take what they can; the others share what that leaves
            for place in full:
                given[place] = room[place]
            continue
        for place in vacant:
            given[place] += quotas[place][0]
        for place in sorted(vacant, key=lambda place: -quotas[place][1])[: total - sum(given)]:
            given[place] += int(given[place] < room[place])
    return given


def _patch_rows(layout: ImageLayout) -> Tensor:
    """Return [P * N] the row of every patch, tile after tile."""
    rows, extra = rows_per_tile(layout), int(layout.has_cls)
    return torch.arange(layout.rows).view(layout.tiles, rows)[:, extra:].flatten()


def _crop_of(layout: ImageLayout) -> Tensor:
    """Return [N] the crop in which the centre of each patch of the base tile lies; padding is no part of that tile."""
    height, width = layout.grid
    top, left, bottom, right = layout.window
    row = (top * 2 * height + (2 * torch.arange(height) + 1) * (bottom - top)) // (2 * height * height)
    column = (left * 2 * width + (2 * torch.arange(width) + 1) * (right - left)) // (2 * width * width)
    return (row[:, None] * layout.mosaic[1] + column).flatten()


def _top_rows(scores: Tensor, budgets: Sequence[int], layout: ImageLayout) -> Tensor:
    """Return the rows of the highest scores [P, N] of each tile, as many as its budget says."""
    rows, extra = rows_per_tile(layout), int(layout.has_cls)
    return torch.cat(
        [
            top_k(own, budget) + tile * rows + extra
            for tile, (own, budget) in enumerate(zip(scores, budgets, strict=True))
        ]
    )


def _packed(keep: Tensor, layout: ImageLayout) -> Tensor:
    """Put kept rows into decoder order: the base tile, then the stitched map without padding."""
    of_base = keep < rows_per_tile(layout)
    crops = keep[~of_base]
    crops = crops[in_window(crops, layout)]
    return torch.cat([keep[of_base], crops[map_order(crops, layout)]])


def _swapped(layout: ImageLayout) -> ImageLayout:
    """Return what the released code takes the layout for: mosaic rows and columns swapped, then unpadded by aspect."""
    swapped = replace(layout, mosaic=(layout.mosaic[1], layout.mosaic[0]))
    top, left, bottom, right = layout.window
    high, wide = layout.picture if any(layout.picture) else (bottom - top, right - left)
    rows, columns = swapped.map_size
    if wide * rows > high * columns:
        padding = (rows - int(high * (columns / wide))) // 2
        return replace(swapped, window=(padding, 0, rows - padding, columns))
    padding = (columns - int(wide * (rows / high))) // 2
    return replace(swapped, window=(0, padding, rows, columns - padding))
