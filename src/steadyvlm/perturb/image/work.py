"""What one perturbation of one picture is given, and how its numbers become bytes again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from steadyvlm.perturb.base import Pixels, Profile
from steadyvlm.perturb.streams import stream

Floats = NDArray[Any]
"""Grey levels or fields, floating; OpenCV's types say no more."""

BYTE_SLACK = 1 / 512
"""Values this little below a grey level count as that level: rounding noise of a library must not decide."""


@dataclass(frozen=True, slots=True)
class Resources:
    """Files that pictures are perturbed with, and what to do when they are missing.

    Attributes:
        frost_folder: a folder with photographs of frost to use instead of those of the imagecorruptions wheel.
        fallbacks: make a substitute for what is missing (the result says so); otherwise the result is `unavailable`.
    """

    frost_folder: Path | None = None
    fallbacks: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """One picture at one level.

    Attributes:
        pixels: [H, W, 3] uint8, RGB; never written to.
        severity: 1 to 5.
        profile: `general` or `paper`.
        key: names all random draws.
        resources: files to use.
        notes: filled with what the result should say ("fallback": its name; "unavailable": what is missing).
    """

    pixels: Pixels
    severity: int
    profile: Profile
    key: str
    resources: Resources = field(default_factory=Resources)
    notes: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def draws(self, name: str) -> np.random.RandomState:
        """Return the stream of one independent draw."""
        return stream(self.key, name)


def thrice(field: Floats) -> Floats:
    """Return a field [H, W] as three equal channels; NumPy's broadcasting over so short an axis is slow."""
    return cv2.merge((field, field, field))


def to_bytes(values: Floats) -> Pixels:
    """Clip grey levels to 0..255 and cut off their fraction, as the references do; `values` may be overwritten.

    >>> to_bytes(np.array([-3.0, 9.9, 300.0])).tolist()
    [0, 9, 255]
    """
    values += BYTE_SLACK
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)
