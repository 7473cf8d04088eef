"""VTW: from some layer on, do without the picture altogether.

The layers before `layer` see every visual token; from there on none is left, because by then the text has taken up
what it needs. Text tokens keep their positions, so a gap stays where the picture was.

Source: Lin et al. 2024, "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference",
arXiv 2405.05803 (AAAI 2025), released code lzhxmu/VTW at a3d8cfc. Its K is `layer`:

    repository's default         vtw(layer=15)    576 tokens in layers 0 to 14, none after
    evaluation harness           vtw(layer=16)    576 tokens in layers 0 to 15, none after
    its LISA demo                vtw(layer=20)

K is meant to be searched for each model, with about 20 samples: the earliest layer after which withdrawal moves the
first answer token's distribution by at most eta nats on average. `steadyvlm.recipes.search_withdrawal_layer` does it.
Published eta: 0.003 (LLaVA-1.5-7B, and where nothing is said), 0.0005 (LLaVA-1.5-13B), 0.0001 (LLaVA-1.6-Vicuna-7B).

Differs:
    - Several images are withdrawn together (the code remembers the last one only), and each sample of a batch loses
      its own tokens (the code drops one span common to all).
    - A search in which no layer passes says so (the code fails).
    - `layer=0` is allowed: an answer without looking at all, a control the paper does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_flag, checked_layer


@dataclass(frozen=True, slots=True)
class VTW:
    """Keep no visual token from one layer on.

    Attributes:
        layer: K, withdraw before this decoder layer.
        reindex: number the text that is left from 0 (an option of the code); otherwise it keeps its positions.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> VTW(layer=15).select(Signals(num_tokens=576), Site(15)).keep.numel()
    0
    """

    layer: int = 15
    reindex: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        checked_count("vtw", "layer", self.layer, minimum=0)
        checked_flag("vtw", "reindex", self.reindex)

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing."""
        return frozenset()

    @property
    def compact_positions(self) -> bool:
        """As asked for; by default the gap stays."""
        return self.reindex

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the one decoder layer."""
        return (Site(checked_layer("vtw", self.layer, num_layers)),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep nothing."""
        return Selection.nothing(signals.device)
