"""Keep visual tokens by lot: the control that a method must beat to claim that its scores mean anything.

The lot is drawn from what the sample is, so a sample loses the same tokens in any batch, order or process. A smaller
`keep_ratio` keeps a subset of what a larger one keeps, and the layer does not enter, so two settings differ in
nothing but what they name.

Source: none; the usual random-pruning control.
Differs: published controls draw from the global random state and so change from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_layer, checked_ratio
from steadyvlm.reduction.tensor_ops import round_budget
from steadyvlm.seeding import stable_seed


@dataclass(frozen=True, slots=True)
class Random:
    """Keep `round(N * keep_ratio)` visual tokens drawn without replacement.

    Attributes:
        layer: act before this decoder layer; None for right after the vision encoder.
        keep_ratio: fraction kept, 0 to 1, rounded half to even.
        seed: another whole number gives another, independent lot.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> Random(keep_ratio=0.5).select(Signals(num_tokens=6, has_cls=True, seed=7), Site()).keep.shape
    torch.Size([3])
    """

    layer: int | None = None
    keep_ratio: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate."""
        if self.layer is not None:
            checked_count("random", "layer", self.layer, minimum=0)
        object.__setattr__(self, "keep_ratio", checked_ratio("random", "keep_ratio", self.keep_ratio))
        checked_count("random", "seed", self.seed, minimum=0)

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing but the sample's seed."""
        return frozenset()

    @property
    def compact_positions(self) -> bool:
        """Compact when the decoder never saw the lost tokens (before layer 0), else original, as FastV does."""
        return not self.layer

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the encoder, or before the one decoder layer."""
        return (Site(None if self.layer is None else checked_layer("random", self.layer, num_layers)),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Draw the tokens to keep; the CLS row is never among them.

        The lot is drawn on the CPU, so every device keeps the same tokens.
        """
        budget = round_budget(signals.num_tokens, self.keep_ratio)
        lot = torch.Generator().manual_seed(stable_seed("reduction/random", self.seed, signals.seed))
        kept = torch.randperm(signals.num_tokens, generator=lot)[:budget].sort().values
        first = 1 if site.in_encoder and signals.has_cls else 0
        return Selection((kept + first).to(signals.device))
