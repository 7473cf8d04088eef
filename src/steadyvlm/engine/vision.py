"""From requests to visual tokens in front of the decoder: tokenise, encode, reduce, project.

How many tokens a picture becomes is known before the encoder runs, so a prompt that is too long costs no encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steadyvlm.engine.images import BatchImages, Needs, VisionCache
from steadyvlm.engine.requests import Request
from steadyvlm.engine.selections import apply_selection, check_selection
from steadyvlm.engine.signals import encoder_needs, encoder_signals, encoder_site, image_scale, method_name
from steadyvlm.engine.slots import Slots
from steadyvlm.errors import SampleError, SteadyVLMError
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import Failure, KeptTokens
from steadyvlm.reduction.base import Reduction, Signal, Site, TextAware
from steadyvlm.reduction.layout import ImageLayout


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready for the decoder.

    Attributes:
        token_ids: prompt ids with `IMAGE_SLOT` once per image.
        features: [K, width] projected visual tokens of each image.
        slots: provenance of those tokens.
        kept: records of the selection after the encoder, if there was one.
        layouts: of its images.
        positions: [T, 3] of the tokens that enter the decoder; None for models that count 0, 1, 2, ….
        next_position: of the first answer token.
        connector_tokens: rows that went through the connector.
    """

    token_ids: tuple[int, ...]
    features: tuple[Tensor, ...]
    slots: Slots
    kept: tuple[KeptTokens, ...]
    layouts: tuple[ImageLayout, ...]
    positions: Tensor | None
    next_position: int
    connector_tokens: int

    @property
    def text_tokens(self) -> int:
        """Prompt tokens that are not visual."""
        return len(self.token_ids) - len(self.layouts)

    @property
    def visual_tokens(self) -> int:
        """Visual tokens before any reduction."""
        return sum(layout.visual_tokens for layout in self.layouts)


def prepare(
    model: VisionLanguageModel, requests: Sequence[Request], reduction: Reduction | None, *, cache: VisionCache | None
) -> list[Prepared | Failure]:
    """Return each request ready for the decoder, or why it failed; one failure leaves the others alone.

    Raises:
        CheckpointError, MissingDependency, Unsupported: when the text tower a method compares with cannot be used.
    """
    site = encoder_site(reduction, model.info)
    needs: Needs = frozenset() if site is None else encoder_needs(reduction)
    images = BatchImages(model, needs - {Signal.TEXT_RELEVANCE}, image_scale(reduction), cache)
    prompts = [_tokenize(model, request, images) for request in requests]
    images.encode()
    return [
        prompt if isinstance(prompt, Failure) else _prepare_one(model, request, prompt, images, reduction, needs, site)
        for request, prompt in zip(requests, prompts, strict=True)
    ]


def failure_of(error: SteadyVLMError) -> Failure:
    """Return the record of an error."""
    return Failure(type(error).__name__, str(error))


def _tokenize(model: VisionLanguageModel, request: Request, images: BatchImages) -> tuple[int, ...] | Failure:
    """Return the prompt's ids, and have its pictures encoded if the whole fits the model."""
    try:
        ids = model.tokenize(request.prompt, len(request.images))
        length = len(ids) + sum(images.layout(image).visual_tokens - 1 for image in request.images)
        if length >= model.info.max_positions:
            raise SampleError(
                f"the prompt has {length} tokens, {len(request.images)} images included, but the model reads at most "
                f"{model.info.max_positions}; shorten the question or send fewer images."
            )
    except SteadyVLMError as error:
        return failure_of(error)
    for image in request.images:
        images.want(image)
    return ids


def _prepare_one(
    model: VisionLanguageModel,
    request: Request,
    token_ids: tuple[int, ...],
    images: BatchImages,
    reduction: Reduction | None,
    needs: Needs,
    site: Site | None,
) -> Prepared | Failure:
    layouts = tuple(images.layout(image) for image in request.images)
    features: list[Tensor] = []
    parts: list[Slots] = []
    connected = 0
    for index, (image, layout) in enumerate(zip(request.images, layouts, strict=True)):
        if reduction is None or site is None:
            features.append(images.tokens(image))
            parts.append(Slots.of_image(index, layout.token_ids(), model.device))
            connected += int((parts[-1].token < layout.tiles * layout.tokens_per_tile).sum())  # all but newlines
            continue
        encoded = images.encoded(image)
        relevance = None
        if Signal.TEXT_RELEVANCE in needs:
            assert isinstance(reduction, TextAware), "a method that compares with the question names its text tower"
            relevance = model.text_relevance(encoded, request.prompt, reduction.text_tower)
        signals = encoder_signals(encoded, needs, seed=request.seed, image=index, relevance=relevance)
        try:
            selection = reduction.select(signals, site)
            check_selection(selection, layout.rows, method=method_name(reduction), ascending=False)
        except SteadyVLMError as error:
            return failure_of(error)
        features.append(model.project(apply_selection(encoded.rows, selection)))
        parts.append(Slots.of_image(index, layout.row_ids(), model.device).take(selection))
        connected += layout.tiles * layout.tokens_per_tile if layout.merge > 1 else len(parts[-1])
    slots = Slots.together(parts, model.device)
    kept = tuple(slots.records(0)) if site is not None else ()
    length = len(token_ids) - len(features) + len(slots)
    positions = None
    if model.info.position_axes > 1:
        positions = model.positions(token_ids, layouts)
        length = int(positions.max()) + 1
        if site is not None:
            positions = _kept_positions(positions, token_ids, layouts, parts)
    return Prepared(token_ids, tuple(features), slots, kept, layouts, positions, length, connected)


def _kept_positions(
    unreduced: Tensor, token_ids: Sequence[int], layouts: Sequence[ImageLayout], parts: Sequence[Slots]
) -> Tensor:
    """Return the rows of `unreduced` [T, 3] for the text and for the tokens that `parts` kept of each image."""
    columns: list[int] = []
    start, images = 0, iter(zip(layouts, parts, strict=True))
    for token in token_ids:
        if token != IMAGE_SLOT:
            columns.append(start)
            start += 1
            continue
        layout, slots = next(images)
        place = {number: column for column, number in enumerate(layout.token_ids(), start)}
        columns += [place[number] for number in slots.token.tolist()]
        start += layout.visual_tokens
    return unreduced[torch.tensor(columns, device=unreduced.device)]
