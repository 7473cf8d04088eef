"""VisionZip: keep the few patches the vision encoder itself looks at, and merge the rest into a handful.

After the vision encoder, the CLS row and the patches that CLS attends to most are kept as they are (dominant tokens).
Of the rows left over, every step-th becomes a target, each other row joins the target whose key points the same way,
and a target is sent on as itself plus the mean of those that joined it (contextual tokens). The decoder then sees
exactly `dominant + contextual` tokens per image, at consecutive positions.

Source: Yang et al. 2024, "VisionZip: Longer is Better but Not Necessary in Vision Language Models", arXiv 2412.04467
(CVPR 2025), released code dvlab-research/VisionZip at 3151f6d. Published settings; `dominant` includes CLS:

    192 of 576    visionzip(dominant=162, contextual=30)    161 patches + CLS + 30 merged
    128 of 576    visionzip(dominant=108, contextual=20)    107 patches + CLS + 20 merged
     64 of 576    visionzip(dominant=54, contextual=10)      53 patches + CLS + 10 merged

Differs:
    - The paper calls the merge an average; the code adds the mean of the members to the target, which about doubles
      its norm. We follow the code.
    - Scores and cosines are float32 (the code stays in float16); ties go to the lower index (undefined there).
    - `contextual=0` skips the merge (a division by zero there). A budget above the number of rows is refused with the
      reason (a shape error there); a budget of exactly all rows keeps every row, CLS included.
    - A key of zero length has cosine 0 with everything and joins the first target (not-a-number there).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count
from steadyvlm.reduction.tensor_ops import complement, sum_over_heads, top_k


@dataclass(frozen=True, slots=True)
class VisionZip:
    """Keep the dominant rows, merge the others into contextual ones.

    Attributes:
        dominant: D, rows kept as they are, the CLS row included; at least 1 (CLS alone).
        contextual: C, merged rows; 0 drops what is not dominant.

    Raises:
        InvalidOption: on construction, for a value outside its range; when an image has fewer rows than D + C.
        Unsupported: when the vision tower has no CLS row.

    >>> attention, keys = torch.tensor([[0.1, 0.6, 0.1, 0.2]]), torch.tensor([[9.0, 9], [1, 0], [1, 1], [1, 0], [0, 1]])
    >>> signals = Signals(4, has_cls=True, cls_attention=attention, encoder_keys=keys)
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
        """CLS attention ranks; keys tell which rows are alike (unneeded when nothing is merged)."""
        merging = {Signal.ENCODER_KEYS} if self.contextual else set()
        return frozenset({Signal.CLS_ATTENTION} | merging)

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the vision encoder, whatever the decoder."""
        return (Site(),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return D dominant slots in row order, then C contextual slots in target order."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        rows = self._checked_rows(signals)
        patches = top_k(sum_over_heads(signals.require(Signal.CLS_ATTENTION)), self.dominant - 1) + 1
        dominant = torch.cat([patches.new_zeros(1), patches])
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

    def _checked_rows(self, signals: Signals) -> int:
        if not signals.has_cls:
            raise Unsupported(
                "visionzip ranks patches by the attention of a CLS row, and this vision tower has none. "
                "Use a reduction that acts in the decoder, for example fastv."
            )
        rows = signals.num_tokens + 1
        if self.dominant + self.contextual > rows:
            raise InvalidOption(
                f"visionzip: dominant={self.dominant} and contextual={self.contextual} ask for "
                f"{self.dominant + self.contextual} tokens, but an image has {rows} rows here "
                f"({signals.num_tokens} patches and CLS). Lower them to {rows} or fewer in total."
            )
        return rows


def _nearest(keys: Tensor, members: Tensor, targets: Tensor) -> Tensor:
    """Return, for each member, which target has the largest cosine in float32: [P] int64; the first wins ties."""
    directions = torch.nn.functional.normalize(keys.to(torch.float32), dim=-1)
    return (directions[members] @ directions[targets].T).argmax(dim=1)


def _mix(keep: Tensor, members: Tensor, groups: Tensor, rows: int, contextual: int) -> Tensor:
    """Return [K, R]: each slot's own row, plus the mean of its members in the last `contextual` slots."""
    slots = keep.numel()
    mix = torch.zeros(slots, rows, dtype=torch.float32, device=keep.device)
    mix[torch.arange(slots, device=keep.device), keep] = 1.0
    sizes = torch.bincount(groups, minlength=contextual).to(torch.float32)
    mix[slots - contextual + groups, members] = 1.0 / sizes[groups]
    return mix
