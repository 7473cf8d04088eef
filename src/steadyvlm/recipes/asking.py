"""From samples to requests: pictures loaded, seeds made from content."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from steadyvlm.engine import Request
from steadyvlm.errors import SteadyVLMError
from steadyvlm.records import Failure, Sample
from steadyvlm.seeding import content_hash, stable_seed


def requests_of(samples: Sequence[Sample]) -> list[Request | Failure]:
    """Return one request per sample, in order; a sample whose picture cannot be read becomes a `Failure`.

    A sample's seed is made from its prompt and the bytes of its pictures, so it does not depend on the batch. Each
    different picture is loaded once.
    """
    pictures: dict[str, Image.Image] = {}
    return [_request(sample, pictures) for sample in samples]


def _request(sample: Sample, pictures: dict[str, Image.Image]) -> Request | Failure:
    try:
        keys = [reference.sha256() for reference in sample.images]
        for key, reference in zip(keys, sample.images, strict=True):
            if key not in pictures:
                pictures[key] = reference.load()
    except SteadyVLMError as error:
        return Failure(type(error).__name__, str(error))
    seed = stable_seed("sample", content_hash(sample.prompt), *keys)
    return Request(tuple(pictures[key] for key in keys), sample.prompt, seed)
