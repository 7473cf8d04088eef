"""One level of the suite applied to one picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache

import numpy as np

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.perturb.base import ImageResult, Level, Perturbation, Pixels, Profile, Status, check_profile
from steadyvlm.perturb.image.digital import reencoded
from steadyvlm.perturb.image.frames import resized, to_pixels, work_size
from steadyvlm.perturb.image.work import Resources, Work
from steadyvlm.perturb.streams import image_content
from steadyvlm.perturb.streams import key as key_of
from steadyvlm.perturb.suite import IMAGE

ROWS: dict[str, Perturbation] = {row.id: row for row in IMAGE}
STORED_QUALITY = 85
"""JPEG quality at which the released generator stored its pictures."""
_DEFAULT = Resources()


def apply_image(
    image: Pixels,
    id: str,
    severity: int,
    key: str | None = None,
    profile: Profile = "general",
    *,
    seed: int = 0,
    resources: Resources = _DEFAULT,
    stored_as_jpeg: bool = False,
) -> ImageResult:
    """Return a picture perturbed at one level, and what became of it.

    Args:
        image: [H, W, 3] uint8, RGB (other arrays and Pillow pictures are converted first); never written to.
        id: a perturbation of pictures, `gaussian_noise`.
        severity: 1 to 5; 1 for `blank_image`.
        key: names the random draws; by default made from the pixels, the level and `seed`.
        profile: `general`, or `paper` for the released generator where it differs.
        seed: another seed gives another draw of the same level.
        resources: files to use.
        stored_as_jpeg: store the result as JPEG of quality 85 and read it again, as the released generator did with
            every picture that came as JPEG; in `paper` only.

    Raises:
        UnknownName: for an id that does not exist.
        InvalidOption: for a severity or profile that does not exist.
        ImageError: if the picture cannot be used.

    >>> result = apply_image(np.full((64, 64, 3), 128, np.uint8), "gaussian_noise", 3)
    >>> result.image.shape, str(result.status)
    ((64, 64, 3), 'applied')
    """
    level = level_of(id, severity)
    if stored_as_jpeg and check_profile(profile) != "paper":
        raise InvalidOption("stored_as_jpeg belongs to profile 'paper'; 'general' never re-encodes.")
    pixels = to_pixels(image)
    notes: dict[str, str | int | float] = {}
    height, width = pixels.shape[:2]
    tall, wide = (height, width) if id == "blank_image" else work_size(height, width)
    given = pixels
    if (tall, wide) != (height, width):
        notes["worked_at"] = f"{wide}x{tall}"
        given = resized(pixels, tall, wide)
    if key is None:
        key = "" if level.perturbation.deterministic else key_of(level, image_content(pixels), seed=seed)
    work = Work(given, severity, check_profile(profile), key, resources, notes)
    changed = _function(level.perturbation.path)(work)
    if changed.shape == given.shape != pixels.shape:
        changed = resized(changed, height, width)
    if stored_as_jpeg:
        changed = reencoded(changed, quality=STORED_QUALITY)
    return ImageResult(changed, _status(pixels, changed, notes), notes)


def level_of(id: str, severity: int) -> Level:
    """Return a level of a perturbation of pictures.

    Raises:
        UnknownName: for an id that does not exist.
        InvalidOption: for a severity it does not have.
    """
    if id not in ROWS:
        raise UnknownName.among("perturbation of pictures", id, ROWS)
    return Level(ROWS[id], severity)


def _status(before: Pixels, after: Pixels, notes: dict[str, str | int | float]) -> Status:
    if "unavailable" in notes:
        return Status.UNAVAILABLE
    if "fallback" in notes:
        return Status.FALLBACK
    # most results differ at once; one row spares them the comparison of all
    same = np.array_equal(before[0], after[0]) and np.array_equal(before, after)
    return Status.NOOP if same else Status.APPLIED


@cache
def _function(path: str) -> Callable[[Work], Pixels]:
    module, _, name = path.partition(":")
    found: Callable[[Work], Pixels] = getattr(importlib.import_module(module), name)
    return found
