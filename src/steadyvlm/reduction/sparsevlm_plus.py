"""SparseVLM+: rate visual tokens as SparseVLM does, but correct for distance, ask the best heads, and recycle nothing.

Attention fades with distance because of rotary positions, which is unfair to the patches far from the words. Here
the raters' attention is divided by the same fading of a vector of ones, and only the heads that pay the picture the
most are averaged. The best tokens stay at their original positions; the others are dropped.

Source: the second version of SparseVLM (Zhang et al. 2024, arXiv 2410.04417), in its released code
Gumpest/SparseVLMs at 26a5f48. For 576 tokens and 32 layers, visual tokens of layers 0-2, 3-6, 7-15 and 16-31:

    192    sparsevlm_plus(keep=[300, 200, 118])    576 300 200 118
    128    sparsevlm_plus(keep=[238, 108, 60])     576 238 108  60
     96    sparsevlm_plus(keep=[246, 54, 28])      576 246  54  28
     64    sparsevlm_plus(keep=[66, 34, 20])       576  66  34  20

Differs:
    - The correction can be small or negative, and as in the code nothing guards against that; a division by exactly
      zero ranks first or, for zero attention, last.
    - A model with fewer heads than `heads` uses all (the code fails). Ties go to the lower index, for heads as well.
    - A budget of all tokens or more changes nothing; the code always prunes one, and so does `compat=True`.
    - Without a text token above average all text rates (an average of nothing there). Several images of a prompt are
      ranked as one set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_count, checked_flag
from steadyvlm.reduction.raters import text_raters
from steadyvlm.reduction.sparsevlm import rater_rows
from steadyvlm.reduction.stages import checked_budgets, checked_layers, checked_outputs, stage_budget
from steadyvlm.reduction.tensor_ops import mean_over_heads, top_k


@dataclass(frozen=True, slots=True)
class SparseVLMPlus:
    """Keep what the raters attend to in the best heads, corrected for distance.

    Attributes:
        layers: prune the output of these decoder layers, ascending.
        keep: tokens kept at each of them, not growing; whole numbers, or fractions of the original visual tokens,
            rounded towards zero.
        heads: how many heads are averaged, those with the largest corrected attention from raters to picture.
        compat: as in the code, prune at least one token even if the budget covers all.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> attention, rotary = torch.tensor([[[0.2, 0.1, 0.3]]]), torch.tensor([[1.0, 0.25, 2.0]])
    >>> signals = Signals(3, original_tokens=3, rater_attention=attention, rater_rotary=rotary)
    >>> SparseVLMPlus(layers=[2], keep=[2]).select(signals, Site(3)).keep  # 0.2, 0.4, 0.15
    tensor([0, 1])
    """

    layers: tuple[int, ...] = (2, 6, 15)
    keep: tuple[int | float, ...] = (300, 200, 118)
    heads: int = 14
    compat: bool = False

    def __post_init__(self) -> None:
        """Validate."""
        layers = checked_layers("sparsevlm_plus", "layers", self.layers)
        object.__setattr__(self, "layers", layers)
        keep = checked_budgets("sparsevlm_plus", "keep", self.keep, stages=len(layers))
        object.__setattr__(self, "keep", keep)
        checked_count("sparsevlm_plus", "heads", self.heads, minimum=1)
        checked_flag("sparsevlm_plus", "compat", self.compat)

    @property
    def needs(self) -> frozenset[Signal]:
        """The raters' attention, and what rotary positions alone make of it."""
        return frozenset({Signal.RATER_ATTENTION, Signal.RATER_ROTARY})

    @property
    def compact_positions(self) -> bool:
        """Survivors keep their positions; decoding goes on from the unpruned length."""
        return False

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Families for which the source says nothing."""
        axes = "Positions have three axes there: the correction is made with the angles of all three."
        return {
            "llava_next": "The source knows one picture of one tile: here the packed tokens of all tiles, newlines "
            "included, are rated together, and budgets count them all.",
            "qwen2_vl": axes,
            "qwen2_5_vl": axes,
        }

    @property
    def refusals(self) -> Mapping[str, str]:
        """None."""
        return {}

    def raters(self, visual: Tensor, text: Tensor) -> Tensor:
        """Return the text tokens above average in what the visual ones resemble."""
        return text_raters(visual, text)

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before the layers that read the output of `layers`."""
        return tuple(Site(layer) for layer in checked_outputs("sparsevlm_plus", self.layers, num_layers))

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep the best rated tokens, in their original order."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        assert site.layer is not None, "it acts in the decoder only"
        attention = signals.require(Signal.RATER_ATTENTION).to(torch.float32)
        corrected = attention / signals.require(Signal.RATER_ROTARY).to(torch.float32)
        best = top_k(corrected.sum(dim=(1, 2)), self.heads)
        scores = mean_over_heads(rater_rows(corrected[best]))
        budget = stage_budget(self.keep[self.layers.index(site.layer - 1)], signals, compat=self.compat)
        return Selection(top_k(scores, budget))
