"""VisionZip: keep the few patches the vision encoder itself looks at, and merge the rest into a handful.

After the vision encoder, the CLS row and the patches that CLS attends to most are kept as they are (dominant tokens).
Of the rows left over, every step-th becomes a target, each other row joins the target whose key points the same way,
and a target is sent on as itself plus the mean of those that joined it (contextual tokens). The decoder then sees
exactly `dominant + contextual` tokens per tile, at consecutive positions.

Source: Yang et al. 2024, "VisionZip: Longer is Better but Not Necessary in Vision Language Models", arXiv 2412.04467
(CVPR 2025), released code dvlab-research/VisionZip at 3151f6d. Published settings; `dominant` includes CLS:

    192 of 576    visionzip(dominant=162, contextual=30)    161 patches + CLS + 30 merged
    128 of 576    visionzip(dominant=108, contextual=20)    107 patches + CLS + 20 merged
     64 of 576    visionzip(dominant=54, contextual=10)      53 patches + CLS + 10 merged
    NeXT, 128, 64 or 32 of each tile: (108, 20), (54, 10), (27, 5); five tiles with 160 in all: (28, 4)

On LLaVA-NeXT each tile is treated alike. Order: the base tile; the chosen patches of all crops in raster order of the
map they form; one CLS row per crop; the merged tokens crop by crop. Padding is not cut off and no newlines are set.

Differs:
    - The paper calls the merge an average; the code adds the mean of the members to the target, which about doubles
      its norm. We follow the code.
    - Scores and cosines are float32 (the code stays in float16); ties go to the lower index (undefined there).
    - `contextual=0` skips the merge (a division by zero there). A budget of exactly all rows keeps every row, CLS
      included. A budget above the rows of a tower with CLS, where every picture has as many, is refused with the
      reason (a shape error there).
    - A key of zero length has cosine 0 with everything and joins the first target (not-a-number there).
    - Towers without CLS (Qwen) are ours: patches are ranked by the attention they receive from all patches, all of
      `dominant` are patches, and a picture with no more tokens than the budget stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.options import checked_count
from steadyvlm.reduction.tensor_ops import complement, sum_over_heads, top_k
from steadyvlm.reduction.tiles import is_tiled, join, map_order, own_rows, take

_WITHOUT_CLS = (
    "The tower has no CLS row: tokens are ranked by the attention they receive from all patches in the last "
    "window-free block, all dominant tokens are patches, and keys are those of merged tokens."
)


@dataclass(frozen=True, slots=True)
class VisionZip:
    """Keep the dominant rows, merge the others into contextual ones.

    Attributes:
        dominant: D, rows kept as they are in each tile, its CLS row included; at least 1 (CLS alone).
        contextual: C, merged rows of each tile; 0 drops what is not dominant.

    Raises:
        InvalidOption: on construction, for a value outside its range; when a tile has fewer rows than D + C.

    >>> attention, keys = torch.tensor([[0.1, 0.6, 0.1, 0.2]]), torch.tensor([[9.0, 9], [1, 0], [1, 1], [1, 0], [0, 1]])
    >>> signals = Signals(4, has_cls=True, salience=attention, encoder_keys=keys)
    >>> selection = VisionZip(dominant=2, contextual=2).select(signals, Site())
    >>> selection.keep  # CLS and patch 1 (row 2) are dominant; rows 1 and 3 are targets, row 4 joins the first
    tensor([0, 2, 1, 3])
    >>> selection.mix[2:]
    tensor([[0., 1., 0., 0., 1.],
            [0., 0., 0., 1., 0.]])
    """

    dominant: int = 54
    contextual: int = 10

    def __post_init__(self) -> None:
        """Validate."""
        checked_count("visionzip", "dominant", self.dominant, minimum=1)
        checked_count("visionzip", "contextual", self.contextual, minimum=0)

    @property
    def needs(self) -> frozenset[Signal]:
        """What the tower looks at ranks; keys tell which rows are alike (unneeded when nothing is merged)."""
        merging = {Signal.ENCODER_KEYS} if self.contextual else set()
        return frozenset({Signal.SALIENCE} | merging)

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Qwen towers have no CLS row."""
        return {"qwen2_vl": _WITHOUT_CLS, "qwen2_5_vl": _WITHOUT_CLS}

    @property
    def refusals(self) -> Mapping[str, str]:
        """Defined everywhere."""
        return {}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the vision encoder, whatever the decoder."""
        return (Site(),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return D dominant slots in row order, then C contextual slots in target order; of tiles, packed."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        chosen = [self._of_tile(tile) for tile in signals.tiles()]
        if not is_tiled(signals):
            return chosen[0]
        assert signals.layout is not None
        joined = join(chosen, signals.layout)
        return take(joined, self._packed(joined.keep, signals.layout))

    def _of_tile(self, signals: Signals) -> Selection:
        extra = int(signals.has_cls)
        rows = signals.num_tokens + extra
        if self.dominant + self.contextual > rows:
            return self._beyond(signals)
        patches = top_k(sum_over_heads(signals.require(Signal.SALIENCE)), self.dominant - extra) + extra
        dominant = torch.cat([patches.new_zeros(extra), patches])
        if self.contextual == 0:
            return Selection(dominant)
        rest = complement(dominant, rows)
        step = rest.numel() // self.contextual
        is_target = torch.zeros_like(rest, dtype=torch.bool)
        is_target[: self.contextual * step : step] = True
        keep = torch.cat([dominant, rest[is_target]])
        members = rest[~is_target]
        if members.numel() == 0:
            return Selection(keep)
        groups = _nearest(signals.require(Signal.ENCODER_KEYS), members, rest[is_target])
        return Selection(keep, _mix(keep, members, groups, rows, self.contextual))

    def _beyond(self, signals: Signals) -> Selection:
        """Keep a native-resolution picture that is smaller than the budget; refuse a setting that never fits."""
        if not signals.has_cls:
            return Selection(torch.arange(signals.num_tokens, device=signals.device))
        rows = signals.num_tokens + 1
        raise InvalidOption(
            f"visionzip: dominant={self.dominant} and contextual={self.contextual} ask for "
            f"{self.dominant + self.contextual} tokens, but an image has {rows} rows here "
            f"({signals.num_tokens} patches and CLS). Lower them to {rows} or fewer in total."
        )

    def _packed(self, keep: Tensor, layout: ImageLayout) -> Tensor:
        """Return the order of the joined slots: base tile, map of chosen patches, CLS rows, contextual rows."""
        per_tile, extra = keep.numel() // layout.tiles, int(layout.has_cls)
        slots = torch.arange(keep.numel(), device=keep.device).view(layout.tiles, per_tile)
        crops = slots[1:]
        patches = crops[:, extra : self.dominant].flatten()
        patches = patches[map_order(keep[patches], layout)]
        return torch.cat([slots[0], patches, crops[:, :extra].flatten(), crops[:, self.dominant :].flatten()])


def _nearest(keys: Tensor, members: Tensor, targets: Tensor) -> Tensor:
    """Return, for each member, which target has the largest cosine in float32: [P] int64; the first wins ties."""
    directions = torch.nn.functional.normalize(keys.to(torch.float32), dim=-1)
    return (directions[members] @ directions[targets].T).argmax(dim=1)


def _mix(keep: Tensor, members: Tensor, groups: Tensor, rows: int, contextual: int) -> Tensor:
    """Return [K, R]: each slot's own row, plus the mean of its members in the last `contextual` slots."""
    mix = own_rows(keep, rows)
    sizes = torch.bincount(groups, minlength=contextual).to(torch.float32)
    mix[keep.numel() - contextual + groups, members] = 1.0 / sizes[groups]
    return mix
