"""What a perturbation is, and what applying one returns.

Source: the 55 perturbations of Chen et al. 2023, "Benchmarking Robustness of Adaptation Methods on Pre-trained
Vision-Language Models", arXiv 2306.02080, released code adarobustness/corruption; the image half goes back to
ImageNet-C, Hendrycks and Dietterich 2019, arXiv 1903.12261.

Differs: a result says what became of it. The released code returns a picture or a text and nothing else, so a change
that silently did nothing counts as robustness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from steadyvlm.errors import InvalidOption

SUITE_VERSION = "1"
"""Raised whenever any output of any level changes; part of every seed."""

Modality = Literal["image", "text"]
Profile = Literal["general", "paper"]
"""`general`: any size and colour mode, defects mended. `paper`: the released generator where it differs."""
PROFILES: tuple[Profile, ...] = ("general", "paper")

Pixels = NDArray[np.uint8]
"""A picture as [H, W, 3] uint8, RGB."""
Info = Mapping[str, str | int | float]


class Status(StrEnum):
    """What became of one input; recorded for every sample.

    Attributes:
        APPLIED: the output differs from the input.
        NOOP: the rule ran and found nothing to change, or its draw left the input as it was.
        FALLBACK: a substitute for a missing model or file was used; `info["fallback"]` names it.
        REVERTED: the fidelity filter restored the original.
        UNAVAILABLE: something required is missing and substitutes are not allowed; the input is returned.
    """

    APPLIED = "applied"
    NOOP = "noop"
    FALLBACK = "fallback"
    REVERTED = "reverted"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One row of the suite.

    Attributes:
        id: name within its modality.
        label: name in the paper's tables.
        modality: what it changes.
        group: family within the modality ("noise", "char", …).
        levels: number of severities, 5 or 1.
        deterministic: it draws no random numbers.
        resources: data files and models it reads; without them it falls back or is unavailable.
        path: `"module:function"` that does the work, imported when first used.
    """

    id: str
    label: str
    modality: Modality
    group: str
    levels: int
    deterministic: bool
    path: str
    resources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Modality and id: `image/gaussian_noise`."""
        return f"{self.modality}/{self.id}"

    def check(self, severity: int) -> int:
        """Return `severity` if this perturbation has it.

        Raises:
            InvalidOption: if it has not.
        """
        if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= self.levels:
            allowed = "1 only" if self.levels == 1 else f"1 to {self.levels}"
            raise InvalidOption(f"'{self.name}' was asked for at severity {severity!r}; it has {allowed}.")
        return severity


@dataclass(frozen=True, slots=True)
class Level:
    """A perturbation at one severity; its text is `image/gaussian_noise@3`.

    Raises:
        InvalidOption: on construction, for a severity it does not have.
    """

    perturbation: Perturbation
    severity: int

    def __post_init__(self) -> None:
        self.perturbation.check(self.severity)

    def __str__(self) -> str:
        return f"{self.perturbation.name}@{self.severity}"


@dataclass(frozen=True, slots=True)
class ImageResult:
    """A perturbed picture.

    Attributes:
        image: [H, W, 3] uint8, RGB; a new array, also when nothing changed.
        status: what became of the input.
        info: details: the fallback used, a size it was worked at.
    """

    image: Pixels
    status: Status
    info: Info = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextResult:
    """A perturbed text.

    Attributes:
        text: the text, protected parts unchanged.
        status: what became of the input.
        info: details: the fallback used, why nothing changed.
    """

    text: str
    status: Status
    info: Info = field(default_factory=dict)


def check_profile(profile: str) -> Profile:
    """Return `profile` if it is one.

    Raises:
        InvalidOption: if it is not.
    """
    for known in PROFILES:
        if profile == known:
            return known
    raise InvalidOption(f"no profile is called {profile!r}; write 'general' (the default) or 'paper'.")
