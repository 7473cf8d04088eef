"""Builds the `Signals` a method asked for, and nothing it did not ask for.

Encoder signals arrive with the encoded image. Inside the decoder the only attention ever written out is one row per
sequence, from the keys of a layer that has just run; the fused kernel stays on for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from torch import Tensor

from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.adapter import EncodedImage, ModelInfo, VisionLanguageModel
from steadyvlm.reduction.base import Reduction, Signal, Signals, Site
from steadyvlm.seeding import stable_seed


def check_reduction(reduction: Reduction | None, model: VisionLanguageModel) -> None:
    """Return quietly if `model` can run `reduction`; computes nothing.

    Raises:
        InvalidOption: for a layer the model does not have.
        Unsupported: for signals this model cannot give.
    """
    decoder_sites(reduction, model.info)
    if encoder_site(reduction, model.info) is not None:
        model.check_signals(encoder_needs(reduction))


def decoder_sites(reduction: Reduction | None, info: ModelInfo) -> dict[int, Site]:
    """Return the decoder layers a method acts before, by number.

    Raises:
        InvalidOption: for a layer the model does not have.
        Unsupported: for attention of the layer before layer 0, which does not exist.
    """
    sites = () if reduction is None else reduction.sites(info.num_layers)
    found = {site.layer: site for site in sites if site.layer is not None}
    beyond = [layer for layer in found if not 0 <= layer < info.num_layers]
    if beyond:
        raise InvalidOption(
            f"there is no decoder layer {beyond[0]}: {info.name} has layers 0 to {info.num_layers - 1}."
        )
    if reduction is not None and 0 in found and Signal.LAST_QUERY_ATTENTION in reduction.needs:
        raise Unsupported("attention of the previous layer does not exist before layer 0; use layer=1 or higher.")
    return found


def encoder_site(reduction: Reduction | None, info: ModelInfo) -> Site | None:
    """Return the site after the vision encoder, if the method acts there."""
    sites = () if reduction is None else reduction.sites(info.num_layers)
    return next((site for site in sites if site.in_encoder), None)


def encoder_needs(reduction: Reduction | None) -> frozenset[Signal]:
    """Return what of a method's needs the vision encoder has to supply."""
    return frozenset() if reduction is None else reduction.needs - {Signal.LAST_QUERY_ATTENTION}


def encoder_signals(
    encoded: EncodedImage, info: ModelInfo, needs: AbstractSet[Signal], *, seed: int, image: int
) -> Signals:
    """Return what a method with these needs sees of image number `image` of a prompt."""
    return Signals(
        num_tokens=encoded.rows.shape[0] - int(info.has_cls),
        has_cls=info.has_cls,
        seed=stable_seed(seed, "image", image),
        encoder_rows=encoded.rows.float() if Signal.ENCODER_ROWS in needs else None,
        cls_attention=encoded.cls_attention,
        encoder_keys=encoded.keys,
    )


def sequence_signals(sequence: VisualSequence, probabilities: Tensor | None, seeds: Sequence[int]) -> list[Signals]:
    """Return what a method sees of each sequence; `probabilities` is [B, H, T] of the last prompt row, if asked for."""
    rows: Sequence[Tensor | None] = [None] * len(seeds)
    if probabilities is not None:
        rows = sequence.visual_columns(probabilities)
    return [
        Signals(num_tokens=count, seed=seed, last_query_attention=row)
        for count, seed, row in zip(sequence.counts, seeds, rows, strict=True)
    ]
