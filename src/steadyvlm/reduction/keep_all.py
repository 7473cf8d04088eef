"""Keep every visual token: the original model, run through the same engine as the accelerated ones.

Source: none; this is the side every method is compared with.
Differs: it never acts (no sites), so nothing of a method's machinery can touch the original's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steadyvlm.reduction.base import Selection, Signal, Signals, Site


@dataclass(frozen=True, slots=True)
class KeepAll:
    """The reduction that reduces nothing.

    >>> KeepAll().sites(12)
    ()
    """

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing."""
        return frozenset()

    @property
    def compact_positions(self) -> bool:
        """Positions never change."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Nowhere, in any model."""
        return ()

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep all patches, should an engine ask; the CLS row stays out, as LLaVA leaves it out.

        >>> KeepAll().select(Signals(num_tokens=3, has_cls=True), Site()).keep
        tensor([1, 2, 3])
        """
        first = 1 if site.in_encoder and signals.has_cls else 0
        return Selection(torch.arange(first, first + signals.num_tokens, device=signals.device))
