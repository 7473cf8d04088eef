"""Which perturbations a study asks about, and on how many samples.

    perturbations: [none, image/all, text/all, image/gaussian_noise@3, random]

or, with settings:

    perturbations:
      levels: [none, image/all, text/all]
      limit: 20             # samples at each level, spread over pictures; `random` always takes every sample
      profile: general      # or paper
      fallbacks: true       # false: a level whose model or file is missing is not asked at all
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadyvlm.errors import ConfigError
from steadyvlm.study.fields import Fields

if TYPE_CHECKING:
    from steadyvlm.perturb.base import Level, Profile

NONE, RANDOM = "none", "random"


@dataclass(frozen=True, slots=True)
class PerturbationPlan:
    """What is asked beside, or instead of, the clean samples.

    Attributes:
        levels: words of `steadyvlm.perturb.suite`; "none" stands for the clean samples.
        limit: samples at each level; None for all of them.
        profile: of the suite.
        fallbacks: make a named substitute where a model or a file is missing.
    """

    levels: tuple[str, ...]
    limit: int | None = None
    profile: Profile = "general"
    fallbacks: bool = True

    @property
    def clean(self) -> bool:
        """Whether the clean samples are asked."""
        return NONE in self.levels

    @property
    def random(self) -> bool:
        """Whether every sample is asked at one level drawn for it."""
        return RANDOM in self.levels

    def expand(self) -> tuple[Level, ...]:
        """Return the single levels that are named, each once.

        Raises:
            UnknownName: or InvalidOption, for a word that names none.
        """
        from steadyvlm.perturb.base import Level
        from steadyvlm.perturb.suite import expand

        return tuple(item for item in expand(self.levels) if isinstance(item, Level))

    def to_value(self) -> dict[str, Any]:
        """Return the value `read_perturbations` reads."""
        limit = {} if self.limit is None else {"limit": self.limit}
        return {"levels": list(self.levels), **limit, "profile": self.profile, "fallbacks": self.fallbacks}


def read_perturbations(fields: Fields) -> PerturbationPlan | None:
    """Take the key `perturbations`: a list of words, or a mapping with settings.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    if isinstance(fields.peek("perturbations"), dict):
        section = fields.section("perturbations")
        assert section is not None  # it is there: it was just looked at
        plan = PerturbationPlan(
            levels=tuple(section.texts("levels")),
            limit=section.integer("limit", None, low=1),
            profile="paper" if section.one_of("profile", ("general", "paper"), "general") == "paper" else "general",
            fallbacks=section.boolean("fallbacks", True),
        )
        section.done()
    else:
        words = fields.texts("perturbations", [])
        if not words:
            return None
        plan = PerturbationPlan(tuple(words))
    if not plan.levels:
        raise ConfigError(f"{fields.source}: 'perturbations' names no level; write for example [none, image/all].")
    return plan
