"""What the address of a result is made of.

Two runs may share an answer only if everything that is meant to change it is equal: the weights, the recipe, the
precision, the task and its version, the decoding settings, and of every sample its id, prompt, image bytes,
references, options and kind. All that is hashed into the cell's key. The order in which a task lists its samples is
not part of it, nor is the batch size of an ordinary arm: those are provenance. For the control they are the very
thing that is tried, so there they are in the key.

Differs: precision (`dtype`) is in the key although a study is usually run under one, because a study resumed on
another machine with `dtype: auto` would otherwise mix float32 and bfloat16 answers without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from steadyvlm.errors import ImageError, SampleError
from steadyvlm.records import SCHEMA_VERSION, ImageRef, Sample
from steadyvlm.seeding import content_hash, stable_seed

UNREADABLE = ""
"""Stands for the hash of an image whose bytes cannot be read."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sample together with the hashes that identify it."""

    sample: Sample
    prompt_sha256: str
    image_sha256: tuple[str, ...]
    sha256: str

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity its prediction will have: (task, sample id, perturbation)."""
        return (self.sample.task, self.sample.id, self.sample.perturbation)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is produced: part of the key."""

    max_new_tokens: int
    stop: tuple[str, ...]


def identify(samples: Sequence[Sample]) -> tuple[Item, ...]:
    """Hash each sample; an image that several samples use is read once.

    Raises:
        SampleError: if a text is not valid Unicode.
    """
    known: dict[object, str] = {}
    return tuple(_item(sample, known) for sample in samples)


def refuse_duplicates(items: Sequence[Item], where: str) -> None:
    """Raise SampleError if two samples would give predictions that cannot be told apart."""
    twice = sorted(key for key, count in Counter(item.key for item in items).items() if count > 1)
    if twice:
        shown = ", ".join(key[1] for key in twice[:5])
        raise SampleError(f"{len(twice)} sample ids of {where} occur more than once ({shown}); make each id unique.")


def subset(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Return at most `limit` items in their order, chosen by hash in whole clusters.

    The choice does not depend on the order of `items`, a smaller limit gives a subset of a larger one as far as
    whole clusters allow, and no part of the task (its beginning, one family) is favoured.
    """
    if limit is None or limit >= len(items):
        return tuple(items)
    clusters: dict[str, list[Item]] = {}
    for item in items:
        clusters.setdefault(item.sample.cluster or f"id:{item.sample.id}", []).append(item)
    chosen: list[Item] = []
    for name in sorted(clusters, key=lambda name: (stable_seed("limit", name), name)):
        room = limit - len(chosen)
        if len(clusters[name]) > room:
            chosen.extend(sorted(clusters[name], key=lambda item: item.sha256)[:room])
            break
        chosen.extend(clusters[name])
    keep = {item.key for item in chosen}
    return tuple(item for item in items if item.key in keep)


def cell_key(
    items: Sequence[Item],
    decoding: Decoding,
    *,
    weights_sha256: str,
    recipe: str,
    dtype: str,
    task: str,
    task_version: str,
    condition: Sequence[object] = (),
) -> str:
    """Return the content hash that addresses the answers of one arm to one task.

    Args:
        items: the samples, in any order.
        decoding: when an answer ends.
        weights_sha256: of the weights that run: the model's, or those of the recipe's checkpoint.
        recipe: canonical text.
        dtype: precision the model runs in.
        task: name of the task.
        task_version: its version; a task changes it when prompts, grading or parsing change.
        condition: the control's batch size, order and seed; empty for every other arm.
    """
    return content_hash(
        {
            "schema": SCHEMA_VERSION,
            "weights": weights_sha256,
            "recipe": recipe,
            "dtype": dtype,
            "task": [task, task_version],
            "decoding": [decoding.max_new_tokens, list(decoding.stop)],
            "samples": sorted(item.sha256 for item in items),
            "condition": list(condition),
        }
    )


def _item(sample: Sample, known: dict[object, str]) -> Item:
    images = tuple(_image_hash(image, known) for image in sample.images)
    try:
        prompt = sample.prompt_sha256()
        address = content_hash(
            [
                [sample.task, sample.id, sample.perturbation, sample.parent, sample.question],
                [prompt, list(images), list(sample.references), list(sample.choices), sample.kind],
                [sample.cluster, sample.family, sample.group],
            ]
        )
    except UnicodeEncodeError:
        raise SampleError(
            f"sample {sample.id!r} of task '{sample.task}' holds half a Unicode character (a lone surrogate); "
            "the file it came from is damaged or was decoded wrongly."
        ) from None
    return Item(sample, prompt, images, address)


def _image_hash(image: ImageRef, known: dict[object, str]) -> str:
    key = _handle(image)
    if key not in known:
        try:
            known[key] = image.sha256()
        except ImageError:
            known[key] = UNREADABLE
    return known[key]


def _handle(image: ImageRef) -> object:
    """Return what tells images apart without reading them: their value if it can be hashed, else their identity."""
    try:
        hash(image)
    except TypeError:
        return id(image)  # the samples keep the image alive, so its id is not reused meanwhile
    return image
