"""Keep what FastV would drop first: the control that must hurt.

A harness that reports no damage here is blind, and a method that does no better than this picks the wrong tokens.

Source: the inverse of FastV (Chen et al. 2024, arXiv 2403.06764); same place, same signal, same budget.
Differs: the ranking is turned around, and nothing else is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steadyvlm.reduction.ranked import RankedOnce
from steadyvlm.reduction.tensor_ops import bottom_k


@dataclass(frozen=True, slots=True)
class LeastAttended(RankedOnce):
    """Keep the visual tokens to which the last prompt position attends least.

    Attributes:
        layer: act before this decoder layer with the attention of the layer before it; at least 1.
        keep_ratio: fraction kept, 0 to 1, rounded half to even.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> import torch
    >>> from steadyvlm.reduction.base import Signals, Site
    >>> attention = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.3, 0.4, 0.0, 0.3]])
    >>> LeastAttended(layer=2, keep_ratio=0.5).select(Signals(4, last_query_attention=attention), Site(2)).keep
    tensor([0, 2])
    """

    method: ClassVar[str] = "least_attended"

    layer: int = 3
    keep_ratio: float = 0.5

    @staticmethod
    def pick(scores: Tensor, budget: int) -> Tensor:
        """Return which `budget` tokens stay: those with the lowest scores."""
        return bottom_k(scores, budget)
