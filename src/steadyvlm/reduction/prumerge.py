"""PruMerge and PruMerge+: keep the patches that stand out, and let each take in its nearest neighbours.

The attention of the tower's last CLS row tells which patches stand out; their number follows the picture (see
`outliers.py`). To each kept patch the 32 patches with the most similar keys are added, weighted by attention, and one
more token sums up all that was dropped. PruMerge+ also keeps patches at regular distances, so that no region is lost.
The tokens enter the decoder in the order of their attention, not in raster order.

Source: Shang et al. 2024, "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", arXiv
2403.15388 (ICCV 2025), released code 42Shawn/LLaVA-PruMerge at 097c041. Published settings: `prumerge()`,
`prumerge_plus()`; for training with a fixed number, `prumerge_plus(outlier_ratio=0.125)`.

Differs:
    - The paper clusters the dropped patches around the kept ones and averages; the code takes neighbours among all
      patches and adds without normalising, so that they overlap. We follow the code.
    - The extra token has no patch of its own. In records it bears the number of the strongest dropped patch, or that
      of CLS when none was dropped (the token is zero then, as in the code).
    - Fewer than 33 patches: all others are neighbours (an error in the code).
    - PruMerge+ without outliers is PruMerge, the extra token alone (a division by zero in the code). Above 96 outliers
      of 576 samples are 1 apart and nothing is dropped, as in the code; they are never 0 apart (an error there).
    - With a fixed number, patches that stand out and are also on the grid are kept once. The code keeps them twice,
      and loses a dropped patch from the extra token for each.
    - On LLaVA-NeXT, which the code does not support, each tile is treated by itself, tile after tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_number, checked_ratio
from steadyvlm.reduction.outliers import outlier_ratio
from steadyvlm.reduction.tensor_ops import by_score, complement, trunc_budget
from steadyvlm.reduction.tiles import is_tiled, join, own_rows

_PER_TILE = "Each tile, the base tile first, is reduced by itself and sends an extra token of its own."
_NO_CLS = "It ranks patches by the attention of a CLS row, and the tower of this family has no such row."


@dataclass(frozen=True, slots=True)
class Merging:
    """What PruMerge and PruMerge+ share: all but which patches are kept besides the outliers."""

    method: ClassVar[str]

    outlier_ratio: float | None
    neighbours: int
    iqr_factor: float

    def __post_init__(self) -> None:
        """Validate."""
        if self.outlier_ratio is not None:
            ratio = checked_ratio(self.method, "outlier_ratio", self.outlier_ratio)
            if ratio == 0:
                raise InvalidOption(
                    f"{self.method}: outlier_ratio=0 takes no patch. Give a share above 0, for example "
                    "outlier_ratio=0.125, or None to count the outliers of each picture."
                )
            object.__setattr__(self, "outlier_ratio", ratio)
        checked_count(self.method, "neighbours", self.neighbours, minimum=0)
        factor = checked_number(self.method, "iqr_factor", self.iqr_factor, minimum=0)
        object.__setattr__(self, "iqr_factor", factor)

    @property
    def needs(self) -> frozenset[Signal]:
        """The tower's last layer: what CLS attends to, and keys that tell what is alike."""
        return frozenset({Signal.LAST_CLS_ATTENTION, Signal.LAST_KEYS})

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """LLaVA-NeXT, of which the source does not speak."""
        return {"llava_next": _PER_TILE}

    @property
    def refusals(self) -> Mapping[str, str]:
        """Towers without a CLS row."""
        return {"qwen2_vl": _NO_CLS, "qwen2_5_vl": _NO_CLS}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the vision encoder, whatever the decoder."""
        return (Site(),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return the kept patches, each with its neighbours, then the extra token; tile after tile."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        chosen = [self._of_tile(tile) for tile in signals.tiles()]
        if not is_tiled(signals):
            return chosen[0]
        assert signals.layout is not None
        return join(chosen, signals.layout)

    def _of_tile(self, tile: Signals) -> Selection:
        scores = tile.require(Signal.LAST_CLS_ATTENTION).to(torch.float32)
        first, tokens = int(tile.has_cls), scores.numel()
        share = outlier_ratio(scores, self.iqr_factor) if self.outlier_ratio is None else self.outlier_ratio
        kept = self.chosen(by_score(scores)[: trunc_budget(tokens, share)], share, tokens)
        dropped = complement(kept, tokens)
        strongest = dropped[scores[dropped].argmax()] + first if dropped.numel() else kept.new_zeros(())
        mix = own_rows(kept, tokens)
        near = _neighbours(tile.require(Signal.LAST_KEYS)[first:], kept, min(self.neighbours, tokens - 1))
        mix.scatter_(1, near, scores[near])
        rest = torch.zeros_like(scores).index_copy(0, dropped, scores[dropped])
        mix = torch.nn.functional.pad(torch.cat([mix, rest[None]]), (first, 0))
        return Selection(torch.cat([kept + first, strongest[None]]), mix)

    def chosen(self, top: Tensor, share: float, tokens: int) -> Tensor:
        """Return the patches to keep in slot order, given the outliers, strongest first: no others."""
        return top


@dataclass(frozen=True, slots=True)
class PruMerge(Merging):
    """Keep the outliers, each with its neighbours added, and one token for everything dropped.

    Attributes:
        outlier_ratio: fraction of the patches taken as outliers, rounded down; None counts them in each picture.
        neighbours: patches added to each kept one.
        iqr_factor: where outliers begin, in quartile distances above the third quartile.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> scores = torch.tensor([0.1, 0.1, 0.5, 0.1])
    >>> keys = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1], [1, 2]])
    >>> signals = Signals(4, has_cls=True, last_cls_attention=scores, last_keys=keys)
    >>> selection = PruMerge(neighbours=1).select(signals, Site())
    >>> selection.keep  # patch 2 is row 3; its neighbour is patch 3; the extra token bears the number of patch 0
    tensor([3, 1])
    >>> selection.mix
    tensor([[0.0000, 0.0000, 0.0000, 1.0000, 0.1000],
            [0.0000, 0.1000, 0.1000, 0.0000, 0.1000]])
    """

    method: ClassVar[str] = "prumerge"

    outlier_ratio: float | None = None
    neighbours: int = 32
    iqr_factor: float = 1.5


@dataclass(frozen=True, slots=True)
class PruMergePlus(Merging):
    """PruMerge, and patches at regular distances besides.

    Attributes:
        outlier_ratio: fraction of the patches taken as outliers, rounded down, and again that many at regular
            distances; None counts outliers in each picture and samples three times as densely as they lie.
        neighbours: patches added to each kept one.
        iqr_factor: where outliers begin, in quartile distances above the third quartile.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> PruMergePlus().chosen(torch.tensor([7, 12]), 2 / 20, 20)  # every third patch, the last one never
    tensor([ 7, 12,  0,  3,  6,  9, 15, 18])
    """

    method: ClassVar[str] = "prumerge_plus"

    outlier_ratio: float | None = None
    neighbours: int = 32
    iqr_factor: float = 1.5

    def chosen(self, top: Tensor, share: float, tokens: int) -> Tensor:
        """Return the outliers, then the samples that are not among them, in raster order."""
        if top.numel() == 0:
            return top
        apart = int(1 / share)
        first, step = (0, max(1, apart // 3)) if self.outlier_ratio is None else (apart // 2, apart)
        grid = torch.arange(tokens - 1, device=top.device)[first::step]
        return torch.cat([top, grid[~torch.isin(grid, top)]])


def _neighbours(keys: Tensor, kept: Tensor, count: int) -> Tensor:
    """Return [K, count] the patches whose keys have the largest cosine with each kept one's, itself apart."""
    directions = torch.nn.functional.normalize(keys.to(torch.float32), dim=-1)
    alike = directions[kept] @ directions.T
    alike.scatter_(1, kept[:, None], -torch.inf)
    return alike.sort(dim=1, descending=True, stable=True).indices[:, :count]
