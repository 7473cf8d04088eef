"""The pictures of a batch: cut once, encoded once, projected once, however many questions share them.

Pictures are compared by content, and a `VisionCache` can carry what the encoder made of them over to later batches.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from PIL.Image import Image
from torch import Tensor

from steadyvlm.errors import ImageError, InvalidOption
from steadyvlm.models.adapter import EncodedImage, Pixels, VisionLanguageModel
from steadyvlm.reduction.base import Signal
from steadyvlm.reduction.layout import ImageLayout

Needs = frozenset[Signal]


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
        self._entries: OrderedDict[tuple[str, Needs], EncodedImage] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of pictures held."""
        return len(self._entries)

    def get(self, key: str, needs: Needs) -> EncodedImage | None:
        """Return the encoded picture with content hash `key` and the signals in `needs`, if it is held."""
        found = self._entries.get((key, needs))
        if found is not None:
            self._entries.move_to_end((key, needs))
        return found

    def put(self, key: str, needs: Needs, encoded: EncodedImage) -> None:
        """Remember a picture, forgetting the one used longest ago when full."""
        # Clones: the parts are views, and a view would keep the tensors of its whole batch alive.
        own = {signal: value.clone() for signal, value in encoded.signals.items()}
        self._entries[key, needs] = EncodedImage(encoded.rows.clone(), encoded.layout, own)
        while len(self._entries) > self._max_images:
            self._entries.popitem(last=False)


class BatchImages:
    """The different pictures of one batch."""

    def __init__(self, model: VisionLanguageModel, needs: Needs, scale: float, cache: VisionCache | None) -> None:
        """Start without pictures.

        Args:
            model: cuts and encodes them.
            needs: encoder signals wanted of each.
            scale: share of visual tokens at which the model is shown them.
            cache: of earlier batches.
        """
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
        """Encode all wanted pictures at once."""
        if not self._wanted:
            return
        encoded = self._model.encode(list(self._wanted.values()), self._needs)
        for key, item in zip(self._wanted, encoded, strict=True):
            self._encoded[key] = item
            if self._cache is not None:
                self._cache.put(key, self._needs, item)

    def encoded(self, image: Image) -> EncodedImage:
        """Return a picture that has been encoded."""
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
