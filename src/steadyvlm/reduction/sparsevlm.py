"""SparseVLM: let the words that look at the picture rate the visual tokens, and recycle what they reject.

Text tokens that resemble the picture are the raters, chosen once on the decoder's input. At the output of a few
decoder layers, the visual tokens that get the most attention from them (mean over heads and raters) are kept. The best
30 % of the others are recycled: grouped by density peaks, ten to a group, and each group goes on as its mean, behind
the kept ones. Positions are counted anew after each such layer. `layers` name the layers whose output is pruned.

Source: Zhang et al. 2024, "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference",
arXiv 2410.04417 (ICML 2025), released code Gumpest/SparseVLMs at 26a5f48 (version 1.5) and 91fb6d9 (first release).
Version 1.5, for 576 tokens and 32 layers, with the visual tokens of layers 0-2, 3-6, 7-15 and 16-31:

    192    sparsevlm(keep=[300, 200, 110])    576 309 204 113
    128    sparsevlm(keep=[303, 110, 36])     576 312 117  39
     96    sparsevlm(keep=[238, 48, 26])      576 249  55  27
     64    sparsevlm(keep=[66, 30, 17])       576  82  32  18

First release, layers 2, 6, 15 and 19, keeping `trunc(scale * rank + bias)` for the rank of the raters' attention:

    192    sparsevlm(version='first', scale=13.5, bias=0)
    128    sparsevlm(version='first', scale=9, bias=6)
     64    sparsevlm(version='first', scale=0.8, bias=0)

Differs:
    - The published totals count the output of a pruning layer as if the layer had processed no more; what layers really
      process is 14.5 tokens more on average for "192".
    - The paper deletes tokens in proportion to count less rank; the first release keeps in proportion to the rank, and
      version 1.5 has fixed counts. We follow the code.
    - No jitter in the clustering (see `clustering`), float32 softmax and scores, ties to the lower index.
    - A budget of all tokens or more changes nothing, and a count of 0 drops them all. The code always prunes at least
      one and puts it back as a group of one at the end; `compat=True` does so too.
    - Without a text token above average all text rates (an average of nothing there).
    - Padded batches and several images: ranked and grouped as one set, and a merged token stands behind the image of
      its centre (the code knows a single prompt with one image).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.clustering import density_peaks
from steadyvlm.reduction.options import checked_flag, checked_number
from steadyvlm.reduction.raters import text_raters
from steadyvlm.reduction.stages import checked_budgets, checked_layers, checked_outputs, stage_budget
from steadyvlm.reduction.tensor_ops import by_score, complement, mean_over_heads, top_k

FIXED, FIRST = "1.5", "first"


@dataclass(frozen=True, slots=True)
class SparseVLM:
    """Keep what the raters attend to, merge the best of the rest.

    Options left at None take the published value of their version; those of the other version must stay None.

    Attributes:
        version: '1.5' keeps fixed budgets, 'first' as many as the rank of the raters' attention says.
        layers: prune the output of these decoder layers; None: 2, 6, 15, in the first release also 19.
        keep: version 1.5, tokens kept at each of them, merged ones not counted; whole numbers, or fractions of the
            original visual tokens, rounded towards zero; None: 300, 200, 110.
        scale, bias: first release, keep `trunc(scale * rank + bias)`; None: 13.5 and 0.
        compat: as in the code, prune at least one token even if the budget covers all.

    Raises:
        InvalidOption: on construction, for a value outside its range or of the other version.

    >>> SparseVLM()
    SparseVLM(version='1.5', layers=(2, 6, 15), keep=(300, 200, 110), scale=None, bias=None, compat=False)
    >>> attention = torch.tensor([[[0.3, 0.1, 0.1, 0.4, 0.1]]])
    >>> signals = Signals(5, original_tokens=5, rater_attention=attention, hidden=torch.eye(5))
    >>> SparseVLM(layers=[2], keep=[2]).select(signals, Site(3)).keep  # 0 and 3 stay, 1 is recycled, 2 and 4 are lost
    tensor([0, 3, 1])
    """

    version: str = FIXED
    layers: tuple[int, ...] | None = None
    keep: tuple[int | float, ...] | None = None
    scale: float | None = None
    bias: float | None = None
    compat: bool = False

    def __post_init__(self) -> None:
        """Validate, and spell out what the version leaves open."""
        if self.version not in (FIXED, FIRST):
            raise InvalidOption(f"sparsevlm: version={self.version!r} is unknown. Choose '1.5' or 'first'.")
        foreign = ("keep",) if self.version == FIRST else ("scale", "bias")
        for option in foreign:
            if getattr(self, option) is not None:
                raise InvalidOption(
                    f"sparsevlm: {option}={getattr(self, option)!r} does not belong to version='{self.version}'. "
                    "keep is for version 1.5, scale and bias are for 'first'."
                )
        checked_flag("sparsevlm", "compat", self.compat)
        published = (2, 6, 15) if self.version == FIXED else (2, 6, 15, 19)
        layers = checked_layers("sparsevlm", "layers", published if self.layers is None else self.layers)
        object.__setattr__(self, "layers", layers)
        if self.version == FIXED:
            keep = checked_budgets(
                "sparsevlm", "keep", (300, 200, 110) if self.keep is None else self.keep, stages=len(layers)
            )
            object.__setattr__(self, "keep", keep)
            return
        for option, default in (("scale", 13.5), ("bias", 0.0)):
            value = getattr(self, option)
            number = checked_number("sparsevlm", option, default if value is None else value, minimum=0)
            object.__setattr__(self, option, number)

    @property
    def needs(self) -> frozenset[Signal]:
        """The raters' attention ranks, hidden states tell which tokens are alike."""
        return frozenset({Signal.RATER_ATTENTION, Signal.HIDDEN})

    @property
    def compact_positions(self) -> bool:
        """Each group of layers counts its own positions without gaps, answer tokens included."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Families for which the source says nothing."""
        return {
            "llava_next": "The source knows one picture of one tile: here the packed tokens of all tiles, newlines "
            "included, are rated together, and budgets count them all.",
            "qwen2_vl": THREE_AXES,
            "qwen2_5_vl": THREE_AXES,
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
        return tuple(Site(layer) for layer in checked_outputs("sparsevlm", self._layers, num_layers))

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return the kept slots in their old order, then the merged ones from the strongest centre on."""
        if signals.num_tokens == 0:
            return Selection.nothing(signals.device)
        assert site.layer is not None, "it acts in the decoder only"
        rated = rater_rows(signals.require(Signal.RATER_ATTENTION))
        stage = self._layers.index(site.layer - 1)
        budget = self._budget(rated, stage, signals)
        scores = mean_over_heads(rated)
        kept = top_k(scores, budget)
        if budget == signals.num_tokens or (self.keep is not None and self.keep[stage] == 0):
            return Selection(kept)
        return recycle(kept, scores, signals)

    @property
    def _layers(self) -> tuple[int, ...]:
        assert self.layers is not None, "spelled out on construction"
        return self.layers

    def _budget(self, rated: Tensor, stage: int, signals: Signals) -> int:
        tokens = signals.num_tokens
        if self.keep is not None:
            return stage_budget(self.keep[stage], signals, compat=self.compat)
        assert self.scale is not None, "spelled out on construction"
        assert self.bias is not None, "spelled out on construction"
        rank = int(torch.linalg.matrix_rank(rated))
        if rank == tokens:
            return tokens
        return min(int(rank * self.scale + self.bias), tokens - self.compat)


def rater_rows(attention: Tensor) -> Tensor:
    """Return [Q, N] float32, the mean over heads of [H, Q, N]."""
    return mean_over_heads(attention.flatten(1)).view(attention.shape[1:])


def recycle(kept: Tensor, scores: Tensor, signals: Signals) -> Selection:
    """Merge the best of the tokens that are not in `kept` and put them behind those that are.

    Args:
        kept: [k] ascending, fewer than all.
        scores: [N] float32, the higher the better.
        signals: with HIDDEN.
    """
    pruned = complement(kept, scores.numel())
    recycled = pruned[by_score(scores[pruned])[: int(0.3 * pruned.numel()) + 1]]
    clusters = recycled.numel() // 10 + 1
    found = density_peaks(signals.require(Signal.HIDDEN)[recycled], clusters)
    keep = torch.cat([kept, recycled[found.centres]])
    mix = torch.zeros(keep.numel(), scores.numel(), dtype=torch.float32, device=scores.device)
    mix[torch.arange(kept.numel(), device=scores.device), kept] = 1.0
    sizes = torch.bincount(found.labels, minlength=clusters).to(torch.float32)
    mix[kept.numel() + found.labels, recycled] = (1.0 / (sizes + 1e-6))[found.labels]
    return Selection(keep, mix)


THREE_AXES = (
    "Positions have three axes there, which are places in the picture: survivors keep them instead of being "
    "renumbered, and a merged token takes those of its centre."
)
