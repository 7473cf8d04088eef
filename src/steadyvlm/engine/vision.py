"""From pictures to visual tokens: encode each picture once, reduce, project.

Several questions of a batch often share a picture. Pictures are compared by content, each different one is encoded
once, and a `VisionCache` can carry the result over to later batches.
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
from steadyvlm.engine.signals import encoder_needs, encoder_signals, encoder_site
from steadyvlm.engine.visual_sequence import Slots, apply_selection, check_selection
from steadyvlm.errors import ImageError, InvalidOption, SampleError, SteadyVLMError
from steadyvlm.models.adapter import EncodedImage, VisionLanguageModel
from steadyvlm.records import Failure, KeptTokens
from steadyvlm.reduction.base import Reduction, Signal, Site

_Needs = frozenset[Signal]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready for the decoder.

    Attributes:
        token_ids: prompt ids with `IMAGE_SLOT` once per image.
        features: [K, width] projected visual tokens of each image.
        slots: provenance of those tokens.
        kept: records of the selection after the encoder, if there was one.
        prompt_tokens: prompt length before any reduction.
    """

    token_ids: tuple[int, ...]
    features: tuple[Tensor, ...]
    slots: Slots
    kept: tuple[KeptTokens, ...]
    prompt_tokens: int


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
        own = (None if part is None else part.clone() for part in (encoded.cls_attention, encoded.keys))
        # Clones: the parts are views, and a view would keep the tensors of its whole batch alive.
        self._entries[key, needs] = EncodedImage(encoded.rows.clone(), *own)
        while len(self._entries) > self._max_images:
            self._entries.popitem(last=False)


def prepare(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    reduction: Reduction | None,
    *,
    method: str,
    cache: VisionCache | None,
) -> list[Prepared | Failure]:
    """Return each request ready for the decoder, or why it failed; one failure leaves the others alone."""
    site = encoder_site(reduction, model.info)
    needs: _Needs = frozenset() if site is None else encoder_needs(reduction)
    prompts = [_tokenize(model, request) for request in requests]
    images = _Images(model, needs, cache)
    for request, prompt in zip(requests, prompts, strict=True):
        if not isinstance(prompt, Failure):
            images.add(request.images)
    images.encode()
    ready: list[Prepared | Failure] = []
    for request, prompt in zip(requests, prompts, strict=True):
        if isinstance(prompt, Failure):
            ready.append(prompt)
            continue
        try:
            ready.append(_prepare_one(model, request, prompt, images, reduction, site, method))
        except SteadyVLMError as error:
            ready.append(failure_of(error))
    return ready


def failure_of(error: SteadyVLMError) -> Failure:
    """Return the record of an error."""
    return Failure(type(error).__name__, str(error))


def _tokenize(model: VisionLanguageModel, request: Request) -> tuple[int, ...] | Failure:
    try:
        ids = model.tokenize(request.prompt, len(request.images))
        length = _length(model, ids, len(request.images))
        if length >= model.info.max_positions:
            raise SampleError(
                f"the prompt has {length} tokens, {len(request.images)} images included, but the model reads at most "
                f"{model.info.max_positions}; shorten the question or send fewer images."
            )
    except SteadyVLMError as error:
        return failure_of(error)
    return ids


def _length(model: VisionLanguageModel, ids: tuple[int, ...], num_images: int) -> int:
    return len(ids) + num_images * (model.info.visual_tokens - 1)


class _Images:
    """The different pictures of one batch."""

    def __init__(self, model: VisionLanguageModel, needs: _Needs, cache: VisionCache | None) -> None:
        self._model, self._needs, self._cache = model, needs, cache
        self._keys: dict[int, str] = {}
        self._alive: list[Image] = []  # an id() is only unique while its object lives
        self._encoded: dict[str, EncodedImage | Failure] = {}
        self._waiting: dict[str, Tensor] = {}
        self._projected: dict[str, Tensor] = {}

    def add(self, images: Sequence[Image]) -> None:
        for image in images:
            if id(image) in self._keys:
                continue
            self._alive.append(image)
            try:
                key = _image_key(image)
                self._keys[id(image)] = key
                known = self._cache.get(key, self._needs) if self._cache is not None else None
                if known is not None:
                    self._encoded[key] = known
                elif key not in self._waiting and key not in self._encoded:
                    self._waiting[key] = self._model.preprocess(image)
            except SteadyVLMError as error:
                key = self._keys.setdefault(id(image), f"unreadable {id(image)}")
                self._encoded[key] = failure_of(error)

    def encode(self) -> None:
        if not self._waiting:
            return
        encoded = self._model.encode(torch.cat(list(self._waiting.values())), self._needs)
        for key, item in zip(self._waiting, encoded, strict=True):
            self._encoded[key] = item
            if self._cache is not None:
                self._cache.put(key, self._needs, item)

    def encoded(self, image: Image) -> EncodedImage | Failure:
        return self._encoded[self._keys[id(image)]]

    def projected(self, image: Image, encoded: EncodedImage) -> Tensor:
        """Return all visual tokens of an unreduced picture, projected once however many questions share it."""
        key = self._keys[id(image)]
        if key not in self._projected:
            self._projected[key] = self._model.project(self._model.default_rows(encoded.rows))
        return self._projected[key]


def _image_key(image: Image) -> str:
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
    site: Site | None,
    method: str,
) -> Prepared | Failure:
    features: list[Tensor] = []
    owner: list[int] = []
    token: list[int] = []
    merged: list[int] = []
    for index, image in enumerate(request.images):
        encoded = images.encoded(image)
        if isinstance(encoded, Failure):
            return encoded
        slots = _all_rows(model, encoded, index)
        if reduction is None or site is None:
            slots = slots.take(range(len(slots) - model.info.visual_tokens, len(slots)), None)
            features.append(images.projected(image, encoded))
        else:
            signals = encoder_signals(encoded, model.info, reduction.needs, seed=request.seed, image=index)
            selection = reduction.select(signals, site)
            check_selection(selection, encoded.rows.shape[0], method=method, ascending=False)
            slots = slots.take(selection.keep.tolist(), selection.mix)
            features.append(model.project(apply_selection(encoded.rows, selection)))
        owner += [index] * len(slots)
        token += slots.token
        merged += slots.merged
    together = Slots(len(request.images), tuple(owner), tuple(token), tuple(merged))
    kept = tuple(together.records(0)) if site is not None else ()
    return Prepared(token_ids, tuple(features), together, kept, _length(model, token_ids, len(request.images)))


def _all_rows(model: VisionLanguageModel, encoded: EncodedImage, image: int) -> Slots:
    rows = encoded.rows.shape[0]
    first = -1 if model.info.has_cls else 0
    return Slots(image + 1, (image,) * rows, tuple(range(first, first + rows)), (0,) * rows)
