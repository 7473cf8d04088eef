"""From clean samples to perturbed ones: the same for every arm, made when they are asked about, checked by hash.

A picture is perturbed once per picture and level, not once per question; only its hash and its status are kept. It is
made again when a model asks for it (the cache of pictures keeps it for the next arms) and must then have that hash.
Prompts are perturbed with what must not change held fixed: placeholders, option letters, numbers in options and the
sentence that says how to answer.

Which samples a limited level takes depends on the samples and the perturbation only: every severity of a perturbation
takes the same ones, spread over the pictures, so that a curve over severity compares like with like.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from steadyvlm.errors import ImageError
from steadyvlm.perturb.base import Info, Level, Profile, Status
from steadyvlm.perturb.image.apply import apply_image
from steadyvlm.perturb.image.work import Resources
from steadyvlm.perturb.manifest import Entry, Manifest, image_hash, library_versions, weakest
from steadyvlm.perturb.suite import LEVELS, TEXT_LEVELS, draw
from steadyvlm.perturb.text.guard import perturb_sample
from steadyvlm.perturb.text.work import Resources as TextResources
from steadyvlm.records import ImageRef, Sample
from steadyvlm.seeding import stable_seed
from steadyvlm.study.identity import UNREADABLE, Item, identify
from steadyvlm.study.perturbation_plan import PerturbationPlan


@dataclass(frozen=True, slots=True)
class PerturbedImage:
    """A picture at one level, made when it is loaded.

    Attributes:
        source: the clean picture.
        level, profile, fallbacks: how it is changed.
        digest: the hash it must have.
    """

    source: ImageRef
    level: Level
    digest: str
    profile: Profile = "general"
    fallbacks: bool = True

    def load(self) -> Image.Image:
        """Return the perturbed picture.

        Raises:
            ImageError: if the clean one cannot be read, or the result is not the one the study was begun with.
        """
        pixels, _, _ = _made(self.source, self.level, self.profile, self.fallbacks)
        if image_hash(pixels) != self.digest:
            raise ImageError(
                f"'{self.level}' no longer gives the picture this study was begun with; the clean picture or a library "
                "has changed. Restore it, or begin anew in another folder."
            )
        return Image.fromarray(pixels)

    def sha256(self) -> str:
        """Return the hash of the perturbed pixels."""
        return self.digest


@dataclass(frozen=True, slots=True)
class Perturbed:
    """The perturbed samples of a task, and what became of each."""

    items: tuple[Item, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    digest: str
    status: Status
    info: Info


class Perturber:
    """Makes perturbed samples; remembers every picture it has hashed, also those of an earlier run's manifest."""

    def __init__(self, plan: PerturbationPlan, earlier: Manifest | None = None) -> None:
        self._plan = plan
        self._levels = plan.expand()
        self._known = dict(_reusable(plan, earlier))

    def perturb(self, items: Sequence[Item]) -> Perturbed:
        """Return `items` at every level of the plan, in the order of the levels."""
        wanted: dict[tuple[str, str], tuple[Item, Level]] = {}
        orders: dict[str, list[Item]] = {}
        for level in self._levels:
            name = level.perturbation.name
            if name not in orders:
                orders[name] = spread([item for item in items if applicable(item, level)], name)[: self._plan.limit]
            for item in orders[name]:
                wanted.setdefault((str(level), item.sample.id), (item, level))
        if self._plan.random:
            for item in items:
                level = drawn_level(item)
                wanted.setdefault((str(level), item.sample.id), (item, level))
        made = [self._one(item, level) for item, level in wanted.values()]
        asked = [sample for sample, entry in made if entry.asked]
        return Perturbed(identify(asked), tuple(entry for _, entry in made))

    def manifest(self, entries: Sequence[Entry]) -> Manifest:
        """Return what is written beside the answers."""
        return Manifest(tuple(entries), self._plan.profile, versions=library_versions())

    def _one(self, item: Item, level: Level) -> tuple[Sample, Entry]:
        return self._picture(item, level) if level.perturbation.modality == "image" else self._text(item, level)

    def _picture(self, item: Item, level: Level) -> tuple[Sample, Entry]:
        outcomes = [
            self._outcome(image, digest, level)
            for image, digest in zip(item.sample.images, item.image_sha256, strict=True)
        ]
        became = tuple(outcome.digest for outcome in outcomes)
        info = {key: value for outcome in outcomes for key, value in outcome.info.items()}
        entry = _entry(item, level, weakest(outcome.status for outcome in outcomes), item.image_sha256, became, info)
        images = tuple(
            PerturbedImage(image, level, digest, self._plan.profile, self._plan.fallbacks)
            for image, digest in zip(item.sample.images, became, strict=True)
        )
        return _child(item.sample, level, images=images), entry

    def _outcome(self, image: ImageRef, digest: str, level: Level) -> _Outcome:
        key = (digest, str(level))
        if key not in self._known:
            pixels, status, info = _made(image, level, self._plan.profile, self._plan.fallbacks)
            self._known[key] = _Outcome(image_hash(pixels), status, info)
        return self._known[key]

    def _text(self, item: Item, level: Level) -> tuple[Sample, Entry]:
        child, result = perturb_sample(
            item.sample, level, profile=self._plan.profile, resources=TextResources(fallbacks=self._plan.fallbacks)
        )
        return child, _entry(item, level, result.status, (item.prompt_sha256,), (child.prompt_sha256(),), result.info)


def applicable(item: Item, level: Level) -> bool:
    """Whether a level can change this sample: a level of pictures needs pictures that can be read."""
    if level.perturbation.modality == "text":
        return True
    return bool(item.image_sha256) and UNREADABLE not in item.image_sha256


def drawn_level(item: Item) -> Level:
    """Return the level `random` stands for; the same for the same prompt and pictures."""
    readable = applicable(item, LEVELS[0])
    return draw("|".join((item.prompt_sha256, *item.image_sha256)), among=LEVELS if readable else TEXT_LEVELS)


def spread(items: Sequence[Item], name: str) -> list[Item]:
    """Return items so that any beginning of the list holds as many different pictures as it can.

    The order depends on the samples and on `name` only.
    """
    clusters: dict[str, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (stable_seed(name, item.sample.id), item.sha256)):
        clusters[item.sample.cluster or item.sample.id].append(item)
    turns = [
        (turn, stable_seed(name, cluster), item) for cluster, row in clusters.items() for turn, item in enumerate(row)
    ]
    return [item for _, _, item in sorted(turns, key=lambda turn: (turn[0], turn[1], turn[2].sha256))]


def _child(sample: Sample, level: Level, **changes: Any) -> Sample:
    return replace(sample, perturbation=str(level), parent=sample.id, **changes)


def _entry(
    item: Item, level: Level, status: Status, given: tuple[str, ...], became: tuple[str, ...], info: Info
) -> Entry:
    return Entry(item.sample.task, item.sample.id, str(level), status, given, became, info)


def _made(source: ImageRef, level: Level, profile: Profile, fallbacks: bool) -> tuple[Any, Status, Info]:
    result = apply_image(
        np.asarray(source.load()),
        level.perturbation.id,
        level.severity,
        profile=profile,
        resources=Resources(fallbacks=fallbacks),
    )
    return result.image, result.status, result.info


def _reusable(plan: PerturbationPlan, earlier: Manifest | None) -> Iterator[tuple[tuple[str, str], _Outcome]]:
    """Pictures an earlier run has hashed with the same suite, profile and libraries."""
    if earlier is None or (earlier.profile, dict(earlier.versions)) != (plan.profile, library_versions()):
        return
    if earlier.suite != Manifest(()).suite:
        return
    for entry in earlier.entries:
        if entry.level.startswith("image/") and len(entry.given) == 1:  # of several, which status is whose is not kept
            yield (entry.given[0], entry.level), _Outcome(entry.became[0], entry.status, entry.info)
