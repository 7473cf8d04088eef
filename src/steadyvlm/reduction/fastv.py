"""FastV: after a few decoder layers, most visual tokens get almost no attention; drop those.

At the input of decoder layer `layer`, rank the visual tokens by the attention that the last prompt position paid them
one layer earlier (mean over heads), keep the best `round(N * keep_ratio)` in their original order and at their
original positions, and go on with the shorter sequence. Layers before `layer` keep all their keys and values.

Source: Chen et al. 2024, "An Image is Worth 1/2 Tokens After Layer 2", arXiv 2403.06764 (ECCV 2024), released code
pkunlp-icler/FastV at d165972. With their K (layer) and R (fraction removed), `keep_ratio` = 1 - R:

    paper's main setting         K=2, R=0.5     fastv(layer=2, keep_ratio=0.5)     576 -> 288
    evaluation harness           K=3, R=0.5     fastv(layer=3, keep_ratio=0.5)     576 -> 288
    released demo                K=3, R=0.75    fastv(layer=3, keep_ratio=0.25)    576 -> 144
    paper's stronger setting     K=2, R=0.75    fastv(layer=2, keep_ratio=0.25)    576 -> 144

Differs:
    - The paper speaks of attention averaged over the sequence; the code reads only the last row. We follow the code.
    - The score is a float32 mean (the code averages in float16), and ties go to the lower index (undefined there).
    - The place of the image is found, never hard-coded (the scripts' fixed start is off by one), and each sample is
      ranked by itself (the code ranks a batch by its first sample). Several images are ranked as one set.
    - `layer=0` does not exist here: in the code it keeps a random set. Use `random(layer=0)` for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from steadyvlm.reduction.ranked import RankedOnce


@dataclass(frozen=True, slots=True)
class FastV(RankedOnce):
    """Keep the visual tokens to which the last prompt position attends most.

    Attributes:
        layer: K, act before this decoder layer with the attention of the layer before it; at least 1.
        keep_ratio: 1 - R, fraction kept, 0 to 1, rounded half to even; 0 drops every visual token.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> import torch
    >>> from steadyvlm.reduction.base import Signals, Site
    >>> attention = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.3, 0.4, 0.0, 0.3]])
    >>> FastV(layer=2, keep_ratio=0.5).select(Signals(4, last_query_attention=attention), Site(2)).keep
    tensor([1, 3])
    """

    method: ClassVar[str] = "fastv"

    layer: int = 3
    keep_ratio: float = 0.5
