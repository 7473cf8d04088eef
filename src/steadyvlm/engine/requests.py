"""One question as the engine receives it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Request:
    """One question about zero or more pictures.

    Attributes:
        images: pictures in prompt order; equal pictures of a batch are encoded once.
        prompt: the text that goes into the chat template.
        seed: made from what the sample is (`seeding.stable_seed`), for methods that draw at random.
    """

    images: tuple[Image, ...]
    prompt: str
    seed: int = 0
