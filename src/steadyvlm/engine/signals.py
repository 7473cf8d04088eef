"""Which signals a method needs where, whether a model can give them, and what it sees after the vision encoder."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.adapter import EncodedImage, ModelInfo, VisionLanguageModel
from steadyvlm.reduction.base import CachePruning, FamilyAware, Reduction, Rescaling, Signal, Signals, Site
from steadyvlm.seeding import stable_seed

OF_LAYER_BEFORE = frozenset(
    {
        Signal.LAST_QUERY_ATTENTION,
        Signal.RATER_ATTENTION,
        Signal.RATER_ROTARY,
        Signal.ATTENTION_OUTPUT,
        Signal.QUESTION_ATTENTION,
        Signal.VISUAL_ATTENTION,
        Signal.HIDDEN_BEFORE,
    }
)
"""Signals of the layer that ran before the site."""


def check_reduction(reduction: Reduction | None, model: VisionLanguageModel) -> None:
    """Return quietly if `model`, or a quantised copy of it, can run `reduction`; computes nothing.

    Raises:
        InvalidOption: for a layer the model does not have, or a cache that is pruned under new positions.
        Unsupported: for a family the method is not defined on, or signals this model cannot give.
    """
    family = model.info.family.partition("/")[0]
    refusals: Mapping[str, str] = reduction.refusals if isinstance(reduction, FamilyAware) else {}
    if family in refusals:
        raise Unsupported(
            f"{method_name(reduction)} is not defined for models of the family {family}: "
            f"{refusals[family].rstrip('.')}."
        )
    decoder_sites(reduction, model.info)
    if reduction is not None and reduction.compact_positions and prunes_cache(reduction):
        raise InvalidOption(
            f"{method_name(reduction)} numbers the survivors anew and takes tokens out of a cache that was written "
            "under the old numbers; set compact_positions or prune_cache to False."
        )
    if encoder_site(reduction, model.info) is not None:
        model.check_signals(encoder_needs(reduction))


def check_deployed(reduction: Reduction | None, model: VisionLanguageModel) -> None:
    """Return quietly if `model` as it is now, quantised or not, can run `reduction`; computes nothing.

    Raises:
        InvalidOption, Unsupported: as `check_reduction`, and for what only a low-bit model shows.
    """
    check_reduction(reduction, model)
    if reduction is not None and Signal.QUANTIZATION_RESIDUAL in reduction.needs:
        layers, nothing = model.layers(), model.embed(torch.empty(0, dtype=torch.int64, device=model.device))
        for index in decoder_sites(reduction, model.info):
            layers[index].activation_error(nothing)


def prunes_cache(reduction: Reduction | None) -> bool:
    """Return whether what a method drops also leaves the cache of the layer that ran last."""
    return reduction.prune_cache if isinstance(reduction, CachePruning) else False


def method_name(reduction: Reduction | None) -> str:
    """Return what to call a method in messages."""
    return type(reduction).__name__


def image_scale(reduction: Reduction | None) -> float:
    """Return the share of visual tokens at which a method shows pictures to the model."""
    return reduction.image_scale if isinstance(reduction, Rescaling) else 1.0


def decoder_sites(reduction: Reduction | None, info: ModelInfo) -> dict[int, Site]:
    """Return the decoder layers a method acts before, by number.

    Raises:
        InvalidOption: for a layer the model does not have.
        Unsupported: for what the layer before layer 0 did, which does not exist.
    """
    sites = () if reduction is None else reduction.sites(info.num_layers)
    found = {site.layer: site for site in sites if site.layer is not None}
    beyond = [layer for layer in found if not 0 <= layer < info.num_layers]
    if beyond:
        raise InvalidOption(
            f"there is no decoder layer {beyond[0]}: {info.name} has layers 0 to {info.num_layers - 1}."
        )
    if reduction is not None and 0 in found and reduction.needs & OF_LAYER_BEFORE:
        raise Unsupported("attention of the previous layer does not exist before layer 0; use layer=1 or higher.")
    return found


def encoder_site(reduction: Reduction | None, info: ModelInfo) -> Site | None:
    """Return the site after the vision encoder, if the method acts there."""
    sites = () if reduction is None else reduction.sites(info.num_layers)
    return next((site for site in sites if site.in_encoder), None)


def encoder_needs(reduction: Reduction | None) -> frozenset[Signal]:
    """Return what of a method's needs the vision encoder has to supply."""
    needs: AbstractSet[Signal] = frozenset() if reduction is None else reduction.needs
    return frozenset(signal for signal in needs if signal.of_encoder)


def encoder_signals(
    encoded: EncodedImage, needs: AbstractSet[Signal], *, seed: int, image: int, relevance: Tensor | None
) -> Signals:
    """Return what a method with these needs sees of image number `image` of a prompt."""
    layout = encoded.layout
    values: dict[str, Any] = {signal.value: value for signal, value in encoded.signals.items() if signal in needs}
    if Signal.ENCODER_ROWS in needs:
        values[Signal.ENCODER_ROWS.value] = encoded.rows.float()
    if Signal.TEXT_RELEVANCE in needs:
        values[Signal.TEXT_RELEVANCE.value] = relevance
    return Signals(
        num_tokens=layout.tiles * layout.tokens_per_tile,
        has_cls=layout.has_cls,
        seed=stable_seed(seed, "image", image),
        layout=layout,
        **values,
    )
