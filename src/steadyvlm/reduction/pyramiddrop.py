"""PyramidDrop: drop visual tokens in steps, asking the next layer each time which ones it would look at.

Before each of a few decoder layers, that layer's own norm, query and key projections are tried on all tokens: the last
prompt position asks, and the visual tokens to which it would attend most (mean over heads) stay in their original
order. How many stay is a share of the image before any drop. Positions are counted anew after each drop.

Source: Xing et al. 2024, "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
Reduction", arXiv 2410.17247 (CVPR 2025), released code Cooperx521/PyramidDrop at 6444f30. For 32 layers:

    published    pyramiddrop(layers=[8, 16, 24], keep_ratios=[0.5, 0.25, 0.125])    576 -> 288 -> 144 -> 72

Differs:
    - The score is a float32 mean over heads (the code averages in the model's precision); ties go to the lower index
      (undefined there).
    - Several images of a prompt are ranked as one set, and each count is a share of them all (the code knows the place
      of one image only). A batch may be padded on either side, for each sample is ranked by itself.
    - The prompt is not cut at the tokenizer's maximum length after a drop.
    - Trained with these drops, the model is better at them; here the model is used as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_layer
from steadyvlm.reduction.ranked import keep_ranked
from steadyvlm.reduction.stages import checked_layers, checked_ratios
from steadyvlm.reduction.tensor_ops import trunc_budget


@dataclass(frozen=True, slots=True)
class PyramidDrop:
    """Keep, before each of `layers`, the tokens to which the last prompt position is about to attend most.

    Attributes:
        layers: act before these decoder layers, ascending.
        keep_ratios: fraction of the original visual tokens kept at each, not growing, rounded towards zero; 0 drops
            every visual token.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> import torch
    >>> attention = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.3, 0.4, 0.0, 0.3]])
    >>> signals = Signals(4, original_tokens=8, fresh_query_attention=attention)
    >>> PyramidDrop(layers=(2, 4), keep_ratios=(0.5, 0.25)).select(signals, Site(4)).keep
    tensor([1, 3])
    """

    layers: tuple[int, ...] = (8, 16, 24)
    keep_ratios: tuple[float, ...] = (0.5, 0.25, 0.125)

    def __post_init__(self) -> None:
        """Validate."""
        layers = checked_layers("pyramiddrop", "layers", self.layers)
        object.__setattr__(self, "layers", layers)
        ratios = checked_ratios("pyramiddrop", "keep_ratios", self.keep_ratios, stages=len(layers))
        object.__setattr__(self, "keep_ratios", ratios)

    @property
    def needs(self) -> frozenset[Signal]:
        """One attention row of the layer that comes next."""
        return frozenset({Signal.FRESH_QUERY_ATTENTION})

    @property
    def compact_positions(self) -> bool:
        """Each group of layers counts its own positions without gaps, answer tokens included."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Families for which the source says nothing."""
        return {family: THREE_AXES for family in ("qwen2_vl", "qwen2_5_vl")}

    @property
    def refusals(self) -> Mapping[str, str]:
        """None."""
        return {}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Before each of the layers."""
        return tuple(Site(checked_layer("pyramiddrop", layer, num_layers)) for layer in self.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep this stage's share of the original count, in the original order."""
        assert site.layer is not None, "it acts in the decoder only"
        share = self.keep_ratios[self.layers.index(site.layer)]
        budget = trunc_budget(signals.original_tokens, share)
        return keep_ranked(signals, Signal.FRESH_QUERY_ATTENTION, budget)


THREE_AXES = (
    "Positions have three axes there, which are places in the picture: survivors keep them instead of being renumbered."
)
