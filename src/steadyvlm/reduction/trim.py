"""TRIM: keep the patches that CLIP relates to the question, and the mean of all others.

Patches and question meet in the space CLIP was trained in: each patch row passes CLIP's last layer norm and visual
projection, the question its text tower, and the dot product says how they relate. Patches whose softmax over these
products stands out stay, in raster order; one more token is the mean of the rest.

Source: Song et al. 2024, "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs",
arXiv 2409.10994 (COLING 2025), released code FreedomIntelligence/TRIM at f5a232d. Published setting: `trim()`.

Differs:
    - The paper calls the measure a cosine and keeps the most similar patches; the code takes the plain dot product and
      keeps the most negative ones, a sign the authors acknowledge. We follow the code; `rule="paper"` keeps the
      patches of the largest dot product.
    - Everything is float32 (the code returns float16).
    - No patch kept: the mean token alone; every patch kept: no mean token (errors in the code).
    - The mean token has no patch of its own. In records it bears the number of the strongest patch that went into it.
    - The number kept is counted for each picture, in the code for a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_ratio
from steadyvlm.reduction.outliers import outlier_ratio
from steadyvlm.reduction.tensor_ops import complement, top_k, trunc_budget
from steadyvlm.reduction.tiles import own_rows

_RULES = ("code", "paper")
_TILES = "The method reshapes to one tile of fixed size, and its source does not say how crops would share a budget."
_NO_SPACE = (
    "The tower of this family has no text tower it was trained with, and so no space to compare patch and text in."
)


@dataclass(frozen=True, slots=True)
class Trim:
    """Keep the patches that stand out in relation to the question, and the mean of the others.

    Attributes:
        keep_ratio: fraction of the patches kept besides the mean, rounded down; "auto" counts outliers.
        text_tower: folder or hub id of the CLIP checkpoint the vision tower belongs to; "auto" looks for `clip_text`
            beside the weights, then for the published CLIP of that size.
        rule: "code" keeps the most negative dot products, "paper" the largest.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> relevance = torch.tensor([0.0, -3.0, 1.0, -1.0])
    >>> selection = Trim(keep_ratio=0.5).select(Signals(4, has_cls=True, text_relevance=relevance), Site())
    >>> selection.keep  # patches 1 and 3 stay; the mean of 0 and 2 bears the number of patch 0
    tensor([2, 4, 1])
    >>> selection.mix[2]
    tensor([0.0000, 0.5000, 0.0000, 0.5000, 0.0000])
    """

    keep_ratio: float | Literal["auto"] = "auto"
    text_tower: str = "auto"
    rule: Literal["code", "paper"] = "code"

    def __post_init__(self) -> None:
        """Validate."""
        if self.keep_ratio != "auto":
            object.__setattr__(self, "keep_ratio", checked_ratio("trim", "keep_ratio", self.keep_ratio))
        if not isinstance(self.text_tower, str) or not self.text_tower.strip():
            raise InvalidOption(
                f"trim: text_tower={self.text_tower!r} is not allowed. Give the folder or hub id of a CLIP checkpoint, "
                'or "auto".'
            )
        if self.rule not in _RULES:
            raise UnknownName.among("rule of trim", str(self.rule), _RULES)

    @property
    def needs(self) -> frozenset[Signal]:
        """How each patch relates to the question."""
        return frozenset({Signal.TEXT_RELEVANCE})

    @property
    def compact_positions(self) -> bool:
        """The decoder sees a shorter image and counts it from the start."""
        return True

    @property
    def equivalents(self) -> Mapping[str, str]:
        """Nowhere: LLaVA is the authors' own case."""
        return {}

    @property
    def refusals(self) -> Mapping[str, str]:
        """Tiles, and towers that share no space with text."""
        return {"llava_next": _TILES, "qwen2_vl": _NO_SPACE, "qwen2_5_vl": _NO_SPACE}

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """After the vision encoder, whatever the decoder."""
        return (Site(),)

    def select(self, signals: Signals, site: Site) -> Selection:
        """Return the kept patches in raster order, then the mean of the others."""
        tokens, first = signals.num_tokens, int(signals.has_cls)
        if tokens == 0:
            return Selection.nothing(signals.device)
        relevance = signals.require(Signal.TEXT_RELEVANCE).to(torch.float32)
        scores = torch.softmax(relevance if self.rule == "paper" else -relevance, dim=0)
        share = outlier_ratio(scores) if self.keep_ratio == "auto" else self.keep_ratio
        kept = top_k(scores, trunc_budget(tokens, share))
        rest = complement(kept, tokens)
        if rest.numel() == 0:
            return Selection(kept + first)
        keep = torch.cat([kept, rest[scores[rest].argmax()][None]]) + first
        mix = own_rows(keep, tokens + first)
        mix[-1, rest + first] = 1.0 / rest.numel()
        return Selection(keep, mix)
