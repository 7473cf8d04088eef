"""Samples with small pictures, for tests."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from steadyvlm.records import ImageRef, Sample
from steadyvlm.study.identity import Item, identify
from steadyvlm.tasks.sources import BytesImage


def png(shade: int, side: int = 4) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (side, side), (shade, 10, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(number: int, *images: ImageRef, task: str = "t", prompt: str = "") -> Sample:
    return Sample(
        id=f"s{number}",
        task=task,
        question="What?",
        prompt=prompt or f"What is number {number}?",
        kind="open",
        references=("yes",),
        images=images,
    )


def items(*samples: Sample) -> tuple[Item, ...]:
    return identify(samples)


def picture(shade: int) -> BytesImage:
    return BytesImage(png(shade), name=f"shade {shade}")
