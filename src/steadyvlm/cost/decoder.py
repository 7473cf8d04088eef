"""Multiplications of a decoder, from the tokens each layer really processes.

A layer with n tokens, width D, query width Q, key width K and MLP width M multiplies and adds

    projections   n D (Q + 2 K) + n Q D        queries, keys, values, output; grouped heads counted as they are
    attention     2 n n Q                      scores and values, dense: the causal half is not discounted
    MLP           3 n D M                      gate, up, down

times. One token against c cached ones counts n = 1 and attention 2 (c + 1) Q, with each layer's own c.

Source: the usual count; the conventions are those that reproduce the published figures of Sun et al. 2025, arXiv
2503.06794v2, Table 1.
Differs: norms, softmax, rotary angles, activations and sums are left out, as they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadyvlm.cost.sizes import DecoderSizes


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Multiply-accumulate operations of one decoder layer."""

    projections: int
    attention: int
    mlp: int

    @property
    def macs(self) -> int:
        """Their sum."""
        return self.projections + self.attention + self.mlp


def layer(sizes: DecoderSizes, tokens: int, *, mlp_matrices: int = 3) -> LayerCost:
    """Return what one layer costs in prefill.

    Args:
        sizes: of the decoder.
        tokens: n, text included.
        mlp_matrices: 3 as it is; 2 in the count of papers that take the MLP for a plain one.

    >>> from steadyvlm.cost.sizes import published
    >>> layer(published("llava-1.5-7b").decoder, 636).macs
    132024238080
    """
    return _layer(sizes, tokens, tokens, tokens, mlp_matrices)


def last_layer(sizes: DecoderSizes, tokens: int, *, mlp_matrices: int = 3) -> LayerCost:
    """Return what the last layer costs when only the last prompt position asks: keys and values of all, one query."""
    return _layer(sizes, min(1, tokens), tokens, tokens, mlp_matrices)


def step(sizes: DecoderSizes, cached: int, *, mlp_matrices: int = 3) -> LayerCost:
    """Return what one layer costs for one generated token against `cached` earlier ones."""
    return _layer(sizes, 1, 1, cached + 1, mlp_matrices)


def decode(sizes: DecoderSizes, cached: Sequence[int], steps: int, *, mlp_matrices: int = 3) -> int:
    """Return the operations of `steps` generated tokens, the layers beginning with `cached` tokens each.

    >>> from steadyvlm.cost.sizes import published
    >>> llava = published("llava-1.5-7b").decoder
    >>> decode(llava, [636] * 32, 2) == 32 * (step(llava, 636).macs + step(llava, 637).macs)
    True
    """
    fixed = step(sizes, 0, mlp_matrices=mlp_matrices).macs * steps * len(cached)
    earlier = sum(cached) * steps + len(cached) * (steps * (steps - 1) // 2)
    return fixed + 2 * earlier * sizes.query_width


def head(sizes: DecoderSizes, rows: int) -> int:
    """Return the operations of the output head on `rows` positions."""
    return rows * sizes.width * sizes.vocabulary


def cache_bytes(sizes: DecoderSizes, cached: Sequence[int], *, value_bytes: int = 2) -> int:
    """Return the bytes of keys and values of `cached` tokens per layer, `value_bytes` for each number.

    >>> from steadyvlm.cost.sizes import published
    >>> cache_bytes(published("qwen2.5-vl-7b").decoder, [1])
    2048
    """
    return 2 * sizes.kv_width * value_bytes * sum(cached)


def _layer(sizes: DecoderSizes, asking: int, new: int, keys: int, mlp_matrices: int) -> LayerCost:
    """Count queries of `asking` tokens, keys and values of `new` ones, attention to `keys` ones."""
    return LayerCost(
        projections=2 * asking * sizes.width * sizes.query_width + 2 * new * sizes.width * sizes.kv_width,
        attention=2 * asking * keys * sizes.query_width,
        mlp=mlp_matrices * asking * sizes.width * sizes.mlp_width,
    )
