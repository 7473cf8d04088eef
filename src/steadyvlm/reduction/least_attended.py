"""Keep what FastV would drop first: the control that must hurt.

A harness that reports no damage here is blind, and a method that does no better than this picks the wrong tokens.

Source: the inverse of FastV (Chen et al. 2024, arXiv 2403.06764); same place, same signal, same budget.
Differs: the ranking is turned around, and nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_layer, checked_ratio
from steadyvlm.reduction.tensor_ops import bottom_k, mean_over_heads, round_budget


@dataclass(frozen=True, slots=True)
class LeastAttended:
    """Keep the visual tokens to which the last prompt position attends least.

    Attributes:
        layer: act before this decoder layer with the attention of the layer before it; at least 1.
        keep_ratio: fraction kept, 0 to 1, rounded half to even.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> import torch
    >>> attention = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.3, 0.4, 0.0, 0.3]])
    >>> LeastAttended(layer=2, keep_ratio=0.5).select(Signals(4, last_query_attention=attention), Site(2)).keep
    tensor([0, 2])
    """

    layer: int = 3
    keep_ratio: float = 0.5

    def __post_init__(self) -> None:
        """Validate."""
        checked_count("least_attended", "layer", self.layer, minimum=1)
        object.__setattr__(self, "keep_ratio", checked_ratio("least_attended", "keep_ratio", self.keep_ratio))

    @property
    def needs(self) -> frozenset[Signal]:
        """One attention row of the layer before."""
        return frozenset({Signal.LAST_QUERY_ATTENTION})

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions, as in FastV."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the one decoder layer."""
        return (Site(checked_layer("least_attended", self.layer, num_layers)),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep the least attended tokens, in their original order."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        scores = mean_over_heads(signals.require(Signal.LAST_QUERY_ATTENTION))
        return Selection(bottom_k(scores, round_budget(signals.num_tokens, self.keep_ratio)))
