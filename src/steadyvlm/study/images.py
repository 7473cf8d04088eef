"""Pictures on their way into a model, decoded once.

Several questions share a picture. `ImageCache` decodes it for the first of them and keeps it, within a budget of
pixels, for the others; the order in which a cell asks its questions keeps the budget small.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from steadyvlm.errors import ImageError
from steadyvlm.records import Sample
from steadyvlm.study.identity import UNREADABLE, Item

PIXEL_BUDGET = 64_000_000
"""Pixels kept decoded at most: 192 MB as RGB, about one picture of the largest allowed size."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture already in memory, in the form samples hold pictures."""

    image: Any
    digest: str

    def load(self) -> Any:
        """Return the `PIL.Image.Image`."""
        return self.image

    def sha256(self) -> str:
        """Return the hash of the bytes the picture was decoded from."""
        return self.digest


class ImageCache:
    """Decoded pictures by content hash, the least recently used dropped first."""

    def __init__(self, budget: int = PIXEL_BUDGET) -> None:
        self._budget = budget
        self._held: OrderedDict[str, DecodedImage] = OrderedDict()
        self._pixels = 0

    def decoded(self, item: Item) -> Sample:
        """Return the item's sample with its pictures in memory.

        Raises:
            ImageError: if one of them cannot be read or decoded.
        """
        images = tuple(
            self._get(image, digest) for image, digest in zip(item.sample.images, item.image_sha256, strict=True)
        )
        return dataclasses.replace(item.sample, images=images)

    def _get(self, image: Any, digest: str) -> DecodedImage:
        if digest == UNREADABLE:
            image.sha256()  # raises ImageError with the reason, unless the file has appeared since
            raise ImageError("the image could not be read when the study began; run the study again.")
        if digest in self._held:
            self._held.move_to_end(digest)
            return self._held[digest]
        held = DecodedImage(image.load(), digest)
        self._held[digest] = held
        self._pixels += _pixels(held)
        while self._pixels > self._budget and len(self._held) > 1:
            self._pixels -= _pixels(self._held.popitem(last=False)[1])
        return held


def _pixels(held: DecodedImage) -> int:
    width, height = held.image.size
    return int(width) * int(height)
