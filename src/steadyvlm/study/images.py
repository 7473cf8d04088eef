"""Pictures on their way into a model, decoded once, and on their way into a report.

Several questions share a picture. `ImageCache` decodes it for the first of them and keeps it, within a budget of
pixels, for the others; the order in which a cell asks its questions keeps the budget small.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from steadyvlm.errors import ImageError, SteadyVLMError
from steadyvlm.records import ImageRef, Prediction, Sample
from steadyvlm.study.identity import UNREADABLE, Item
from steadyvlm.study.plan import Study, build_task

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


def image_lookup(study: Study) -> Callable[[Prediction], bytes | None]:
    """Return a function from a prediction to the PNG bytes of its first picture, or None if there is none.

    The tasks of the study are built when the first picture is asked for; a picture that cannot be read is None.
    """
    pictures = functools.cache(lambda: _pictures(study))

    def lookup(prediction: Prediction) -> bytes | None:
        image = pictures().get(prediction.key)
        if image is None or not prediction.image_sha256:
            return None
        try:
            # A file that has changed since would show a picture that was never asked about.
            return encode_png(image.load()) if image.sha256() == prediction.image_sha256[0] else None
        except ImageError:
            return None

    return lookup


def encode_png(image: Any) -> bytes:
    """Return a `PIL.Image.Image` as PNG bytes."""
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def _pictures(study: Study) -> dict[tuple[str, str, str], ImageRef]:
    found = {}
    for plan in study.tasks:
        try:
            samples = build_task(plan).samples()
        except SteadyVLMError:
            continue  # a task of somebody's own, or one whose files are gone: its gallery has no pictures
        found.update({(s.task, s.id, s.perturbation): s.images[0] for s in samples if s.images})
    return found


def _pixels(held: DecodedImage) -> int:
    width, height = held.image.size
    return int(width) * int(height)
