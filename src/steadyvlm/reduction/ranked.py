"""Ranking by one attention row: what FastV, its inverse and PyramidDrop have in common.

All three average the attention that one prompt position pays each visual token over the heads, and keep the tokens
at one end of that ranking in their old order. FastV and the inverse control also share the place, the signal and the
budget; `RankedOnce` is that method without a name and without a side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_layer, checked_ratio
from steadyvlm.reduction.tensor_ops import mean_over_heads, round_budget, top_k

Pick = Callable[[Tensor, int], Tensor]
"""Scores [N] and a budget to the indices kept, ascending: `top_k` or `bottom_k`."""


def keep_ranked(signals: Signals, signal: Signal, budget: int, pick: Pick = top_k) -> Selection:
    """Keep `budget` tokens by their mean attention over heads, in their original order.

    Args:
        signals: of one sequence.
        signal: which [H, N] attention row ranks.
        budget: how many to keep; N or more keeps all.
        pick: which end of the ranking stays.

    >>> import torch
    >>> attention = torch.tensor([[0.1, 0.4, 0.2], [0.3, 0.4, 0.1]])
    >>> keep_ranked(Signals(3, last_query_attention=attention), Signal.LAST_QUERY_ATTENTION, 2).keep
    tensor([0, 1])
    """
    if signals.num_tokens == 0:
        return Selection.nothing(signals.device)
    return Selection(pick(mean_over_heads(signals.require(signal)), budget))


@dataclass(frozen=True, slots=True)
class RankedOnce:
    """Keep a share of the visual tokens before one layer, by what the last prompt position paid them a layer earlier.

    A method repeats both fields, because its options are read from its own file, and says its name and its side.

    Attributes:
        layer: act before this decoder layer with the attention of the layer before it; at least 1.
        keep_ratio: fraction kept, 0 to 1, rounded half to even.

    Raises:
        InvalidOption: on construction, for a value outside its range.
    """

    method: ClassVar[str]

    layer: int
    keep_ratio: float

    def __post_init__(self) -> None:
        """Validate."""
        checked_count(self.method, "layer", self.layer, minimum=1)
        object.__setattr__(self, "keep_ratio", checked_ratio(self.method, "keep_ratio", self.keep_ratio))

    @staticmethod
    def pick(scores: Tensor, budget: int) -> Tensor:
        """Return which `budget` tokens stay: those with the highest scores."""
        return top_k(scores, budget)

    @property
    def needs(self) -> frozenset[Signal]:
        """One attention row of the layer before."""
        return frozenset({Signal.LAST_QUERY_ATTENTION})

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions; decoding goes on from the unpruned length."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the one decoder layer."""
        return (Site(checked_layer(self.method, self.layer, num_layers)),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep the tokens at this method's end of the ranking, in their original order."""
        budget = round_budget(signals.num_tokens, self.keep_ratio)
        return keep_ranked(signals, Signal.LAST_QUERY_ATTENTION, budget, self.pick)
