"""Downsample: show the model a smaller picture with as many tokens as a method keeps. The control for all of them.

A reduction that does no better than shrinking the picture beforehand has chosen nothing. The picture is shrunk, keeping
its aspect, to the grid of patches whose size comes nearest to the wanted share.

Source: none; the control any published method should be compared with.
Differs: no token is chosen, so nothing acts in the encoder or decoder; positions are those of a small picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.reduction.options import checked_ratio


@dataclass(frozen=True, slots=True)
class Downsample:
    """Shrink the picture and keep every token of it.

    Attributes:
        keep_ratio: wanted share of visual tokens, above 0 and at most 1; the nearest grid of patches is taken.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> Downsample(keep_ratio=0.25).image_scale
    0.25
    """

    keep_ratio: float = 0.25

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "keep_ratio", checked_ratio("downsample", "keep_ratio", self.keep_ratio))
        if self.keep_ratio == 0:
            raise InvalidOption(
                "downsample: keep_ratio=0 leaves no picture. Give a share above 0, for example keep_ratio=0.25; to "
                "drop every visual token use random(keep_ratio=0.0)."
            )

    @property
    def image_scale(self) -> float:
        """The wanted share of visual tokens."""
        return self.keep_ratio

    @property
    def needs(self) -> frozenset[Signal]:
        """Nothing."""
        return frozenset()

    @property
    def compact_positions(self) -> bool:
        """Positions never change."""
        return False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        """Nowhere: the picture itself is smaller."""
        return ()

    def select(self, signals: Signals, site: Site) -> Selection:
        """Keep all patches, should an engine ask."""
        first = 1 if site.in_encoder and signals.has_cls else 0
        return Selection(torch.arange(first, first + signals.num_tokens, device=signals.device))
