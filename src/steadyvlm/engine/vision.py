"""From pictures to visual tokens: encode each picture once, reduce, project.

Several questions of a batch often share a picture. Pictures are compared by content, each different one is encoded
once, and a `VisionCache` can carry the result over to later batches. How many tokens a picture becomes is known before
the encoder runs, so a prompt that is too long costs no encoding.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from steadyvlm.engine.requests import Request
from steadyvlm.engine.selections import apply_selection, check_selection
from steadyvlm.engine.signals import encoder_needs, encoder_signals, encoder_site, image_scale, method_name
from steadyvlm.engine.visual_sequence import Slots
from steadyvlm.errors import ImageError, InvalidOption, SampleError, SteadyVLMError
from steadyvlm.models.adapter import IMAGE_SLOT, EncodedImage, Pixels, VisionLanguageModel
from steadyvlm.records import Failure, KeptTokens
from steadyvlm.reduction.base import Reduction, Signal, Site, TextAware
from steadyvlm.reduction.layout import ImageLayout

_Needs = frozenset[Signal]


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


class VisionCache:
    """Remembers the encoder's output of the pictures used last. Belongs to one model; drop it when weights change."""

    def __init__(self, max_images: int = 64) -> None:
        """Hold at most `max_images` pictures (about 2.3 MB each for LLaVA-1.5 in float32).

        Raises:
            InvalidOption: for fewer than one.
        """
        if max_images < 1:
            raise InvalidOption(f"max_images must be at least 1, got {max_images}; pass no cache to do without.")
        self._max_images = max_images
        self._entries: OrderedDict[tuple[str, _Needs], EncodedImage] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._entries)

    def get(self, key: str, needs: _Needs) -> EncodedImage | None:
        """Return the encoded picture with content hash `key` and the signals in `needs`, if it is held."""
        found = self._entries.get((key, needs))
        if found is not None:
            self._entries.move_to_end((key, needs))
        return found

    def put(self, key: str, needs: _Needs, encoded: EncodedImage) -> None:
        """Remember a picture, forgetting the one used longest ago when full."""
        # Clones: the parts are views, and a view would keep the tensors of its whole batch alive.
        own = {signal: value.clone() for signal, value in encoded.signals.items()}
        self._entries[key, needs] = EncodedImage(encoded.rows.clone(), encoded.layout, own)
        while len(self._entries) > self._max_images:
            self._entries.popitem(last=False)


def prepare(
    model: VisionLanguageModel, requests: Sequence[Request], reduction: Reduction | None, *, cache: VisionCache | None
) -> list[Prepared | Failure]:
    """Return each request ready for the decoder, or why it failed; one failure leaves the others alone.

    Raises:
        CheckpointError, MissingDependency, Unsupported: when the text tower a method compares with cannot be used.
    """
    site = encoder_site(reduction, model.info)
    needs: _Needs = frozenset() if site is None else encoder_needs(reduction)
    images = _Images(model, needs - {Signal.TEXT_RELEVANCE}, image_scale(reduction), cache)
    prompts = [_tokenize(model, request, images) for request in requests]
    images.encode()
    return [
        prompt if isinstance(prompt, Failure) else _prepare_one(model, request, prompt, images, reduction, needs, site)
        for request, prompt in zip(requests, prompts, strict=True)
    ]


def failure_of(error: SteadyVLMError) -> Failure:
    """Return the record of an error."""
    return Failure(type(error).__name__, str(error))


def _tokenize(model: VisionLanguageModel, request: Request, images: _Images) -> tuple[int, ...] | Failure:
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


class _Images:
    """The different pictures of one batch."""

    def __init__(self, model: VisionLanguageModel, needs: _Needs, scale: float, cache: VisionCache | None) -> None:
        self._model, self._needs, self._scale, self._cache = model, needs, scale, cache
        self._keys: dict[int, str] = {}
        self._alive: list[Image] = []  # an id() is only unique while its object lives
        self._pixels: dict[str, Pixels] = {}
        self._wanted: dict[str, Pixels] = {}
        self._encoded: dict[str, EncodedImage] = {}
        self._tokens: dict[str, Tensor] = {}

    def layout(self, image: Image) -> ImageLayout:
        """Return how a picture is cut; raises ImageError for one that cannot be read."""
        key = self._key(image)
        if key not in self._encoded and key not in self._pixels:
            known = self._cache.get(key, self._needs) if self._cache is not None else None
            if known is not None:
                self._encoded[key] = known
            else:
                self._pixels[key] = self._model.preprocess(image, scale=self._scale)
        return self._encoded[key].layout if key in self._encoded else self._pixels[key].layout

    def want(self, image: Image) -> None:
        """Have a picture encoded whose layout is known."""
        key = self._key(image)
        if key not in self._encoded:
            self._wanted[key] = self._pixels[key]

    def encode(self) -> None:
        if not self._wanted:
            return
        encoded = self._model.encode(list(self._wanted.values()), self._needs)
        for key, item in zip(self._wanted, encoded, strict=True):
            self._encoded[key] = item
            if self._cache is not None:
                self._cache.put(key, self._needs, item)

    def encoded(self, image: Image) -> EncodedImage:
        return self._encoded[self._key(image)]

    def tokens(self, image: Image) -> Tensor:
        """Return all visual tokens of an unreduced picture, projected once however many questions share it."""
        key = self._key(image)
        if key not in self._tokens:
            self._tokens[key] = self._model.visual_tokens(self._encoded[key])
        return self._tokens[key]

    def _key(self, image: Image) -> str:
        if id(image) not in self._keys:
            self._keys[id(image)] = f"{_content(image)} {self._scale}"
            self._alive.append(image)
        return self._keys[id(image)]


def _content(image: Image) -> str:
    if not isinstance(image, Image):
        raise ImageError(f"expected a PIL image, got {type(image).__name__}; open the file with PIL.Image.open.")
    try:
        digest = hashlib.sha256(image.tobytes())
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for truncated or broken files
        raise ImageError(f"the image cannot be decoded: {error}. Replace the file.") from error
    digest.update(f"{image.mode} {image.size} {image.getpalette() if image.mode == 'P' else ''}".encode())
    return digest.hexdigest()


def _prepare_one(
    model: VisionLanguageModel,
    request: Request,
    token_ids: tuple[int, ...],
    images: _Images,
    reduction: Reduction | None,
    needs: _Needs,
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
