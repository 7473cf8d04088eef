"""Pictures for the page: decoded under guard, made small, embedded as data URIs within a budget.

The bytes come from benchmarks and folders we do not know. They are decoded by the guarded decoder of `tasks.sources`
and written anew, so that neither metadata nor a malformed file reaches a reader's browser.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from steadyvlm.errors import SteadyVLMError
from steadyvlm.records import Prediction
from steadyvlm.tasks.sources import decode

MAX_SIDE = 448
"""Longer side of an embedded picture in pixels."""
MAX_PNG_BYTES = 12 * 1024
"""A larger PNG is embedded as JPEG."""
BUDGET_BYTES = 16 * 1024 * 1024
"""All pictures of a page together, as text."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One embedded picture; `width` and `height` are those of the original file."""

    uri: str
    width: int
    height: int


@dataclass
class PictureBook:
    """Collects the pictures of a page, each only once.

    Attributes:
        fetch: encoded bytes of a prediction's picture, or None.
        budget: bytes left for data URIs; later pictures are left out and counted.
    """

    fetch: Callable[[Prediction], bytes | None]
    budget: int = BUDGET_BYTES
    pictures: list[Picture] = field(default_factory=list)
    left_out: int = 0
    unreadable: int = 0
    _places: dict[tuple[str, ...], int | None] = field(default_factory=dict)

    def place(self, prediction: Prediction) -> int | None:
        """Return the index of the prediction's picture in `pictures`, or None if there is nothing to show."""
        key = prediction.image_sha256 or prediction.key
        if key not in self._places:
            self._places[key] = self._add(prediction)
        return self._places[key]

    def _add(self, prediction: Prediction) -> int | None:
        try:
            data = self.fetch(prediction)
            picture = None if data is None else embed(data, name=prediction.sample_id)
        except (SteadyVLMError, OSError):
            self.unreadable += 1
            return None
        if picture is None:
            return None
        if len(picture.uri) > self.budget:
            self.left_out += 1
            return None
        self.budget -= len(picture.uri)
        self.pictures.append(picture)
        return len(self.pictures) - 1


def embed(data: bytes, *, name: str) -> Picture:
    """Return encoded picture bytes as a small data URI.

    Raises:
        ImageError: when they cannot be decoded safely.
    """
    return embed_image(decode(data, name=name))


def embed_image(image: Image.Image, *, max_side: int = MAX_SIDE) -> Picture:
    """Return an RGB picture as a data URI of at most `max_side` pixels a side."""
    width, height = image.size
    image = image.copy()
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    media, encoded = "png", _encode(image, "PNG", optimize=True)
    if len(encoded) > MAX_PNG_BYTES:
        media, encoded = "jpeg", _encode(image, "JPEG", quality=88, subsampling=0)
    return Picture(f"data:image/{media};base64,{base64.b64encode(encoded).decode('ascii')}", width, height)


def _encode(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
