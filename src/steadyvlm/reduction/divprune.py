"""DivPrune: keep the visual tokens that are most different from each other.

Of the projected tokens, the one farthest from its nearest neighbour comes first; then, again and again, the one
farthest from everything chosen so far. Neither question nor attention is asked. Distance is one minus the cosine.

Source: Alvar et al. 2025, "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", arXiv
2503.02175 (CVPR 2025), released code vbdi/divprune at 799e2d9. Published settings:

    divprune(keep_ratio=0.098)     56 of 576
    divprune(keep_ratio=0.2222)   128 of 576

Differs:
    - Distances are float32 (the model's precision in the code). The order of the nearest is kept up to date from pick
      to pick rather than computed anew; the picks are the same.
    - A token is picked once. With fewer different tokens than wanted, the code picks some twice.
    - Equal tokens (the newlines of LLaVA-NeXT) get exactly equal distances, so ties go to the lower index on every
      device.
    - Tokens of zero length are at distance 1 from everything (not-a-number in the code); of a picture with one token,
      that token can be kept (an error in the code).
    - Several pictures, which the code does not know, are treated one by one, each with its share of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_ratio
from steadyvlm.reduction.tensor_ops import round_budget

_ALIKE = 1 - 1e-5
"""Cosine above which two tokens are compared number by number."""


@dataclass(frozen=True, slots=True)
class DivPrune:
    """Keep the tokens that are farthest from each other, before the decoder's first layer.

    Attributes:
        keep_ratio: fraction kept, 0 to 1, rounded half to even.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> hidden = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    >>> DivPrune(keep_ratio=0.5).select(Signals(4, hidden=hidden), Site(0)).keep  # 3 first, then its opposite
    tensor([0, 3])
    """

    keep_ratio: float = 0.098

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "keep_ratio", checked_ratio("divprune", "keep_ratio", self.keep_ratio))

    @property
    def needs(self) -> frozenset[Signal]:
        """The projected tokens themselves."""
        return frozenset({Signal.HIDDEN})

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the first layer."""
        return (Site(0),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep the most different tokens of each picture, in their original order."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        hidden = signals.require(Signal.HIDDEN)
        sizes = [signals.num_tokens]
        if signals.images is not None:
            sizes = torch.unique_consecutive(signals.images, return_counts=True)[1].tolist()
        kept, start = [], 0
        for rows in torch.split(hidden, sizes):
            kept.append(most_different(rows, round_budget(len(rows), self.keep_ratio)) + start)
            start += len(rows)
        return Selection(torch.cat(kept))


def most_different(rows: Tensor, count: int) -> Tensor:
    """Return `count` rows chosen greedily for the largest distance to the nearest one chosen, ascending.

    Args:
        rows: [N, D] float, any float dtype.
        count: how many, 0 to N.

    >>> most_different(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2)
    tensor([0, 2])
    """
    if count in (0, len(rows)):
        return torch.arange(count, device=rows.device)
    # One small step per pick, each waiting for the last: a CPU is done before a GPU has started them.
    cosine = _cosines(rows)
    cosine.fill_diagonal_(-torch.inf)
    first = int(cosine.amax(dim=0).argmin())
    cosine.fill_diagonal_(torch.inf)  # what is picked stays nearest to itself, and is never picked again
    nearest, lines = cosine[first].clone(), cosine.unbind(0)
    picks = [first]
    for _ in range(count - 1):
        picks.append(int(nearest.argmin()))
        torch.maximum(nearest, lines[picks[-1]], out=nearest)
    return torch.tensor(sorted(picks), device=rows.device)


def _cosines(rows: Tensor) -> Tensor:
    """Return [N, N] float32 cosines on the CPU; equal rows have equal cosines to the last bit."""
    directions = torch.nn.functional.normalize(rows.to(torch.float32), dim=1).nan_to_num(nan=0.0)
    cosine = (directions @ directions.T).cpu()
    # A product of matrices may round the same sum differently at another place, so equal rows share one result.
    near = cosine > _ALIKE
    alike = (near.sum(dim=1) > 1).nonzero().squeeze(1)
    if alike.numel() == 0:
        return cosine
    first = near[alike].to(torch.float32).argmax(dim=1)
    same = (directions[first.to(rows.device)] == directions[alike.to(rows.device)]).all(dim=1).cpu()
    source = torch.arange(len(rows))
    source[alike[same]] = first[same]
    return cosine[source][:, source]
