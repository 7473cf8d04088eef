"""LoFi: after every layer, merge the tokens that take least part in what attention wrote.

The output of a layer's attention, one row per visual token, has a spectrum. The more of its energy lies in few
directions (high inverse participation ratio, IPR), the more tokens can go: a share f = IPR / (1 + beta IPR) of them,
rounded down. Those with the least leverage on the leading directions are replaced by one token, their mean weighted by
leverage, which stands at their median place. It is an ordinary token from then on.

Source: Sun et al. 2025, "Silent Hazards of Token Reduction in Vision-Language Models", arXiv 2503.06794v2, section
3.2; the method left later versions of that entry, and no code was published. Settings of its tables:

    Table 1   lofi(beta=6.0), lofi(beta=4.0), lofi(beta=2.0)     a smaller beta removes more
    Table 3   lofi(keep_ratio=0.9), lofi(keep_ratio=0.85)        the same share in every layer
    Table 4   lofi(beta=4.0), on LLaVA-NeXT

Made from text alone, so these are choices (all but the first agree with the published operation counts, see the cost
tests):
    - The rank is floor(0.75 min(N, D)); the paper's sentence refers to itself. Leverage depends on it strongly, so it
      is an option; at rank=1.0 with N <= D all leverage is 1 and the last tokens go.
    - Attention's output is taken after its output projection, before the residual sum, of visual tokens only.
    - The whole layer runs first; then its outputs are reduced. Nothing happens after the last layer, whose output
      only the last prompt position reads. Removed tokens stay in the caches of the layers they reached.
    - Of an even number of merged tokens the lower median gives place and position.
    - Among equal leverage (compared in float32) the higher index goes first.
    - A share that amounts to one token changes nothing: the merged token would be that token.
Differs:
    - Tokens without any leverage are merged with equal weights (a division by zero in the formula).
    - `merge=False` drops the merged token, to show what it contributes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_ratio
from steadyvlm.reduction.spectrum import truncated_spectrum
from steadyvlm.reduction.tensor_ops import complement, top_k

_BETA = 4.0


@dataclass(frozen=True, slots=True)
class LoFi:
    """Merge the visual tokens of least leverage after every layer, the more the fewer directions matter.

    Attributes:
        beta: above 0; f = IPR / (1 + beta IPR) of the tokens go, so a smaller beta removes more.
        keep_ratio: keep this fraction in every layer instead (the number removed is rounded down), whatever the
            spectrum; None for the rule with beta.
        rank: share of the possible directions that counts as leading, above 0 and at most 1.
        merge: whether the removed tokens live on as one.

    Raises:
        InvalidOption: on construction, for a value outside its range, or a beta beside a keep_ratio.
        RunError: when the attention output is not finite.

    >>> import torch
    >>> rows = torch.diag(torch.tensor([9.0, 3.0, 2.0, 1.0]))
    >>> selection = LoFi(beta=0.5, rank=0.5).select(Signals(4, attention_output=rows), Site(1))
    >>> selection.keep, selection.mix  # 2 leading directions, IPR 0.82, f 0.58: two of four tokens merge
    (tensor([0, 1, 2]), tensor([[1.0000, 0.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]]))
    """

    beta: float = _BETA
    keep_ratio: float | None = None
    rank: float = 0.75
    merge: bool = True

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "beta", _checked_beta(self.beta))
        object.__setattr__(self, "rank", checked_ratio("lofi", "rank", self.rank))
        if self.rank == 0:
            raise InvalidOption("lofi: rank=0 leaves no direction to measure by. Give a share above 0, such as 0.75.")
        if not isinstance(self.merge, bool):
            raise InvalidOption(f"lofi: merge={self.merge!r} is not allowed. Give True or False.")
        if self.keep_ratio is not None:
            object.__setattr__(self, "keep_ratio", checked_ratio("lofi", "keep_ratio", self.keep_ratio))
            if self.beta != _BETA:
                raise InvalidOption(
                    f"lofi: beta={self.beta} and keep_ratio={self.keep_ratio} are two rules for one number. Give beta "
                    "for a share that follows the spectrum, or keep_ratio for the same share in every layer."
                )

    @property
    def needs(self) -> frozenset[Signal]:
        """What the attention of the layer before wrote to each visual token."""
        return frozenset({Signal.ATTENTION_OUTPUT})

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions, and the merged token takes the one of its median member."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After every layer but the last, that is before layers 1, 2 and so on."""
        return tuple(Site(layer) for layer in range(1, num_layers))

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep the tokens of most leverage and one for all others, in their original order."""
        tokens = signals.num_tokens
        if tokens == 0:
            return Selection.nothing(signals.device)
        spectrum = truncated_spectrum(signals.require(Signal.ATTENTION_OUTPUT), self.rank)
        removed = self.removed(tokens, spectrum.ipr)
        if removed < (2 if self.merge else 1):
            return Selection(torch.arange(tokens, device=signals.device))
        survivors = top_k(spectrum.leverage, tokens - removed)
        if not self.merge:
            return Selection(survivors)
        lost = complement(survivors, tokens)
        median = lost[(removed - 1) // 2]
        keep = torch.cat([survivors, median[None]]).sort().values
        return Selection(keep, _mix(keep, median, lost, spectrum.leverage))

    def removed(self, tokens: int, ipr: float) -> int:
        """Return R, how many of `tokens` go at a place where the spectrum has this IPR.

        >>> [LoFi(beta=4.0).removed(576, 0.2), LoFi(keep_ratio=0.9).removed(570, 0.2)]
        [64, 57]
        """
        share = ipr / (1 + self.beta * ipr) if self.keep_ratio is None else 1 - self.keep_ratio
        return math.floor(share * tokens + 1e-9)


def _mix(keep: Tensor, median: Tensor, lost: Tensor, leverage: Tensor) -> Tensor:
    """Return [K, N] float32: each survivor's own row, and in the slot of `median` the weights of all lost tokens."""
    mix = torch.zeros(keep.numel(), leverage.numel(), dtype=torch.float32, device=keep.device)
    slots = torch.arange(keep.numel(), device=keep.device)
    mix[slots, keep] = 1.0
    weights = leverage[lost].clamp_min(0)
    total = weights.sum()
    slot = torch.searchsorted(keep, median)
    mix[slot, lost] = torch.where(total > 0, weights / total, torch.full_like(weights, 1 / lost.numel()))
    return mix


def _checked_beta(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise InvalidOption(
            f"lofi: beta={value!r} is not allowed. Give a number above 0; the published settings are 6, 4 and 2, and "
            "a smaller one removes more."
        )
    return float(value)
