"""What each shipped method computes to choose its tokens, from its settings and the counts of the layers it acted on.

Schedules come from the counts: a layer is taken to have been analysed when the settings name it, with as many tokens as
it really processed. What neither tells, the caller gives in `Known`; a method for which something is missing, or that
is not ours, has no bill (None), which is not the same as a bill of nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from steadyvlm.cost.report import Counts
from steadyvlm.cost.scoring import (
    Scoring,
    attention_rows,
    merge,
    projected_attention_rows,
    projection,
    pruning_module,
    similarities,
    spectra,
    text_tower,
)
from steadyvlm.cost.sizes import ClipSizes, ModelSizes
from steadyvlm.registry import Spec


@dataclass(frozen=True, slots=True)
class TextTower:
    """The CLIP text tower that TRIM asks: sizes, positions it reads, and width of the shared space."""

    layers: int
    width: int
    mlp_width: int
    tokens: int
    shared: int


@dataclass(frozen=True, slots=True)
class Known:
    """What counts and settings do not tell.

    Attributes:
        raters: text tokens that rated, for SparseVLM, or asked, for QUOTA; all text tokens, an upper bound, when None.
        text_tower: of TRIM.
        inner: E of the modules of LVPruning.
        module_layers: layers the modules stand before.
    """

    raters: int | None = None
    text_tower: TextTower | None = None
    inner: int | None = None
    module_layers: tuple[int, ...] = ()


def scoring_of(
    reduction: Spec | None, counts: Counts, sizes: ModelSizes, known: Known | None = None
) -> tuple[Scoring, ...] | None:
    """Return the bill of choosing tokens for one prompt, or None when it is not known.

    Args:
        reduction: the method with all its settings (`recipe.reduction`); None keeps every token.
        counts: what was executed.
        sizes: of the model.
        known: what counts and settings do not tell.

    >>> from steadyvlm.cost.sizes import published
    >>> counts = Counts((576,) * 3 + (288,) * 29, text=60)
    >>> scoring_of(Spec.parse("fastv(layer=3, keep_ratio=0.5)"), counts, published("llava-1.5-7b"))
    (Scoring(what='attention rows', macs=2605056),)
    """
    if reduction is None or reduction.name in _FREE or not any(counts.visual):
        return ()
    bill = _BILLS.get(reduction.name)
    return None if bill is None else bill(_Case(dict(reduction.options), counts, sizes, known or Known()))


def with_scoring(reduction: Spec | None, counts: Counts, sizes: ModelSizes, known: Known | None = None) -> Counts:
    """Return the counts with the bill of choosing tokens in them, as far as it is known."""
    return replace(counts, scoring=scoring_of(reduction, counts, sizes, known) or ())


_FREE = frozenset({"keep_all", "random", "vtw", "downsample"})
"""Methods that compute nothing."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A method on a prompt."""

    options: Mapping[str, Any]
    counts: Counts
    sizes: ModelSizes
    known: Known

    def tokens(self, layer: int) -> int:
        """Tokens that layer processed, text included."""
        return self.counts.visual[layer] + self.counts.text

    def entering(self, layer: int) -> int:
        """Visual tokens that stood before that layer when the method was asked."""
        return self.counts.visual[layer - 1] if layer else self.counts.original

    @property
    def tiles(self) -> Sequence[int]:
        """Patches of every tile of every picture."""
        return [height * width for tiles, height, width in self.counts.grids for _ in range(tiles)]

    @property
    def layers(self) -> Sequence[int]:
        """Layers the settings name."""
        return tuple(self.options["layers"])

    @property
    def tower(self) -> ClipSizes | None:
        """The tower, if it is a CLIP tower."""
        return self.sizes.vision if isinstance(self.sizes.vision, ClipSizes) else None


_Bill = tuple[Scoring, ...] | None


def _last_row(case: _Case) -> _Bill:
    return (attention_rows(case.sizes.decoder, 1, case.tokens(case.options["layer"] - 1)),)


def _pyramiddrop(case: _Case) -> _Bill:
    keys = [case.entering(layer) + case.counts.text for layer in case.layers]
    return tuple(projected_attention_rows(case.sizes.decoder, 1, count) for count in keys)


def _sparsevlm(case: _Case) -> _Bill:
    decoder, visual = case.sizes.decoder, case.counts.visual
    budgets = case.options["keep"]
    if budgets is None:  # the first release keeps what a rank says, which no record holds
        return None
    raters = case.counts.text if case.known.raters is None else case.known.raters
    bound = " (at most: all text rates)" if case.known.raters is None else ""
    bill = [similarities(visual[0], case.counts.text, decoder.width, what="visual with text")]
    for layer, budget in zip(case.layers, budgets, strict=True):
        bill.append(attention_rows(decoder, raters, case.tokens(layer), what=f"rater rows{bound}"))
        if "heads" in case.options:  # SparseVLM+ drops where SparseVLM recycles, and compares rotated ones
            bill.append(similarities(raters, visual[layer], decoder.head_width, what=f"rotary correction{bound}"))
            continue
        kept = budget if isinstance(budget, int) else int(budget * case.counts.original)
        if 0 < kept < visual[layer]:
            recycled = int(0.3 * (visual[layer] - kept)) + 1
            bill.append(similarities(recycled, recycled, decoder.width, what="clustering"))
            bill.append(merge(recycled, decoder.width))
    return tuple(bill)


def _visionzip(case: _Case) -> _Bill:
    if case.tower is None:
        return None
    width, bill = case.tower.width, list[Scoring]()
    for patches in case.tiles:
        targets = case.options["contextual"]
        members = patches + 1 - case.options["dominant"] - targets
        bill.append(similarities(1, patches + 1, width, what="class row"))
        bill.append(similarities(members, targets, width // case.tower.heads, what="members with targets"))
        bill.append(merge(members, width))
    return tuple(bill)


def _hired(case: _Case) -> _Bill:
    if case.tower is None:
        return None
    return tuple(similarities(2, patches + 1, case.tower.width, what="class rows") for patches in case.tiles)


def _prumerge(case: _Case) -> _Bill:
    if case.tower is None:
        return None
    width, bill = case.tower.width, list[Scoring]()
    kept = case.counts.connector_tokens // max(1, len(case.tiles))
    for patches in case.tiles:
        bill.append(projection(patches + 2, width, width, what="keys and class query of the last layer"))
        bill.append(similarities(1, patches + 1, width, what="class row"))
        bill.append(similarities(kept, patches, width, what="kept with all"))
        bill.append(merge(kept * (case.options["neighbours"] + 1), width))
    return tuple(bill)


def _trim(case: _Case) -> _Bill:
    text = case.known.text_tower
    if case.tower is None or text is None:
        return None
    patches = sum(case.tiles)
    return (
        text_tower(text.layers, text.width, text.mlp_width, text.tokens),
        projection(1, text.width, text.shared, what="text into the shared space"),
        projection(patches, case.tower.width, text.shared, what="patches into the shared space"),
        similarities(patches, 1, text.shared, what="patches with the question"),
    )


def _divprune(case: _Case) -> _Bill:
    if len(case.counts.grids) != 1:  # each picture is compared with itself, and records hold the sum of their tokens
        return None
    tokens = case.counts.original
    return (similarities(tokens, tokens, case.sizes.decoder.width, what="all pairs"),)


def _lofi(case: _Case) -> _Bill:
    visual, width = case.counts.visual, case.sizes.decoder.width
    merged = sum(before - after + 1 for before, after in pairwise(visual) if before > after)
    bill = spectra(visual[:-1], width, rank=case.options["rank"])
    return (*bill, merge(merged, width)) if case.options["merge"] else bill


def _lvpruning(case: _Case) -> _Bill:
    inner, width = case.known.inner, case.sizes.decoder.width
    if inner is None:
        return None
    entering = [case.entering(layer) for layer in case.known.module_layers]
    return tuple(pruning_module(width, inner, visual, case.counts.text) for visual in entering)


def _quota(case: _Case) -> _Bill:
    decoder, bill = case.sizes.decoder, list[Scoring]()
    inter, _, intra, _ = case.options["weights"]
    if isinstance(case.options["layers"], str):
        return None
    askers = case.counts.text if case.known.raters is None else case.known.raters
    bound = " (at most: all text asks)" if case.known.raters is None else ""
    for layer in case.layers:
        ranked = layer if case.options["apply"] == "next" else layer - 1
        if inter:
            bill.append(attention_rows(decoder, askers, case.tokens(ranked), what=f"question rows{bound}"))
        if intra:
            bill.append(attention_rows(decoder, case.counts.visual[ranked], case.tokens(ranked), what="visual rows"))
    return tuple(bill)


_BILLS: Mapping[str, Callable[[_Case], _Bill]] = {
    "fastv": _last_row,
    "least_attended": _last_row,
    "pyramiddrop": _pyramiddrop,
    "sparsevlm": _sparsevlm,
    "sparsevlm_plus": _sparsevlm,
    "visionzip": _visionzip,
    "hired": _hired,
    "prumerge": _prumerge,
    "prumerge_plus": _prumerge,
    "trim": _trim,
    "divprune": _divprune,
    "lofi": _lofi,
    "lvpruning": _lvpruning,
    "quota": _quota,
}
