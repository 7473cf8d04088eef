"""Multiplications that choosing tokens itself needs, from the rows really scored.

Each function counts one kind of work; a method is a sum of a few. What the model computes anyway (keys and queries of a
layer that has run, rows of the encoder) is not counted again. Sorting, softmax, means and thresholds are left out, as
norms are elsewhere. An eigenproblem of order n is taken as 9 n^3 operations, that is 9 n^3 / 2 multiply-accumulates:
the usual estimate for all values and vectors, not an exact count.

Source: the methods' own files in `reduction/`; for LoFi, Sun et al. 2025, arXiv 2503.06794v2, whose published TFLOPs
leave this work out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadyvlm.cost.sizes import DecoderSizes


@dataclass(frozen=True, slots=True)
class Scoring:
    """One line of a bill: what was done, and its multiply-accumulate operations."""

    what: str
    macs: int


def attention_rows(decoder: DecoderSizes, queries: int, keys: int, *, what: str = "attention rows") -> Scoring:
    """Products of `queries` rows with `keys` keys, in all heads, of a layer whose projections exist.

    One query over all tokens of the layer for FastV; the raters over all tokens for SparseVLM.
    """
    return Scoring(what, queries * keys * decoder.query_width)


def projected_attention_rows(
    decoder: DecoderSizes, queries: int, keys: int, *, what: str = "attention ahead of the layer"
) -> Scoring:
    """As `attention_rows`, but queries and keys are projected for it (PyramidDrop, before the layer runs)."""
    projections = queries * decoder.width * decoder.query_width + keys * decoder.width * decoder.kv_width
    return Scoring(what, projections + queries * keys * decoder.query_width)


def similarities(rows: int, others: int, width: int, *, what: str = "similarities") -> Scoring:
    """Dot products of `rows` rows with `others` rows of this width.

    N with N for DivPrune and for density clustering; members with targets for VisionZip and PruMerge; patches with one
    question for TRIM; visual with text embeddings for the raters of SparseVLM.
    """
    return Scoring(what, rows * others * width)


def projection(rows: int, inputs: int, outputs: int, *, what: str = "projection") -> Scoring:
    """One matrix on `rows` rows, such as the keys of a tower layer that would not have run, or CLIP's projection."""
    return Scoring(what, rows * inputs * outputs)


def merge(sources: int, width: int, *, what: str = "merge") -> Scoring:
    """Weighted sums in which `sources` rows of this width take part, each once."""
    return Scoring(what, sources * width)


def text_tower(layers: int, width: int, mlp_width: int, tokens: int, *, what: str = "text tower") -> Scoring:
    """A CLIP text tower on `tokens` positions (TRIM)."""
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp_width
    return Scoring(what, layers * block)


def spectra(visual: Sequence[int], width: int, *, rank: float = 0.75) -> tuple[Scoring, ...]:
    """LoFi's work on layers with `visual` tokens each: Gram matrices, eigenproblems, leverage.

    Args:
        visual: visual tokens of each layer whose output is analysed; layers without any cost nothing.
        width: D of the attention output.
        rank: share of the directions that counts as leading.

    >>> [item.macs for item in spectra([576], 4096)]
    [1358954496, 859963392, 0]
    """
    gram = eigen = leverage = 0
    for count in visual:
        order = min(count, width)
        gram += order * order * max(count, width)
        eigen += (9 * order**3 + 1) // 2
        if count > width:
            leverage += count * width * max(1, int(rank * width + 1e-9))
    return Scoring("Gram matrices", gram), Scoring("eigenproblems", eigen), Scoring("leverage", leverage)


def pruning_module(width: int, inner: int, visual: int, text: int, *, what: str = "pruning module") -> Scoring:
    """One cross-attention module of LVPruning: `visual` queries over `text` keys, then a keep-or-drop decision.

    Queries and residual D x E on visual tokens, keys and values D x E on text tokens, attention 2 N T E, output E x E,
    and the decision's matrices E x E and E x 2.
    """
    visual_side = visual * (2 * width * inner + 2 * inner * inner + 2 * inner)
    return Scoring(what, visual_side + 2 * text * width * inner + 2 * visual * text * inner)
