"""What a low-bit quantiser decides for one block, before any weight is changed: transforms and clips.

Round-to-nearest decides nothing, a rotation decides fixed transforms, FlatQuant learns them. All three are then put
into a model by the same code (`install`), stored in the same files, and can be compared on the same block.

For an input x of width I = a b, read by linears y = x W^T, a transform is the invertible matrix

    P = diag(c) (P1 (x) P2)          y = (x P) (P^-1 W^T)

with a Kronecker product of P1 [a, a] and P2 [b, b] and a scale c [I] per channel; x is reshaped to [a, b] and becomes
P1^T (c x) P2.

Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426, section 3.

Letters: I input width, a, b its factors, d head width, O output width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from steadyvlm.quantization.structure import Feed


@dataclass(frozen=True, slots=True)
class Transform:
    """An invertible change of basis of one input.

    For "attention_output" `left` acts across heads [H, H] and `right` within a head [d, d]; `right` is then the same
    matrix as `BlockState.values` and needs no work at run time, because it is folded into the values' weights.

    Attributes:
        left: P1 [a, a]; float64 while it is made, float32 or float16 once stored.
        right: P2 [b, b].
        scale: c [I], all above zero; None for ones.
    """

    left: Tensor
    right: Tensor
    scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """Shares of the largest and smallest entry that a quantiser still represents, each in (0, 1]; 1 clips nothing.

    Attributes:
        high: share of the maximum; a number, or [O, 1] for weights.
        low: share of the minimum.
    """

    high: Tensor | float = 1.0
    low: Tensor | float = 1.0


@dataclass(frozen=True, slots=True)
class ReaderState:
    """Decisions about one input and the linears that read it.

    Attributes:
        transform: of the input; None leaves it as it is.
        activation: clip of the input's per-token quantiser.
        weights: clip of each linear's per-row quantiser, by path; missing ones clip nothing.
    """

    transform: Transform | None = None
    activation: Clip = Clip()
    weights: Mapping[str, Clip] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BlockState:
    """Decisions about one block.

    Attributes:
        readers: by input; missing ones are left as they are (identity, no clip).
        keys: [d, d] matrix P of the cached keys, applied after the rotary embedding: k P, with queries q P^-T; None
            for none. The same for all heads of the layer.
        values: [d, d] matrix of the values, folded into the weights that make them and, inverted, into the output
            projection; None for none.
        key_clip, value_clip: clips of the cache's quantisers.
    """

    readers: Mapping[Feed, ReaderState] = field(default_factory=dict)
    keys: Tensor | None = None
    values: Tensor | None = None
    key_clip: Clip = Clip()
    value_clip: Clip = Clip()
