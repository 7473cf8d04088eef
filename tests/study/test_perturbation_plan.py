"""The key `perturbations`: what can be written, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from steadyvlm.errors import ConfigError, InvalidOption, UnknownName
from steadyvlm.study.perturbation_plan import PerturbationPlan
from steadyvlm.study.plan import Study

BASE = {"study": "s", "model": "pocket", "tasks": [{"name": "pocket", "limit": 3}]}


def plan(value: Any) -> PerturbationPlan | None:
    return Study.from_mapping({**BASE, "perturbations": value}).perturbations


def test_a_list_and_a_mapping_mean_the_same() -> None:
    words = ["none", "image/all", "random"]
    assert plan(words) == plan({"levels": words}) == PerturbationPlan(tuple(words))
    assert plan([]) is None
    assert Study.from_mapping(BASE).perturbations is None


def test_settings_are_read_and_written_back() -> None:
    value = {"levels": ["none", "image/fog@2"], "limit": 5, "profile": "paper", "fallbacks": False}
    study = Study.from_mapping({**BASE, "perturbations": value})
    assert study.perturbations == PerturbationPlan(("none", "image/fog@2"), 5, "paper", False)
    assert Study.from_mapping(study.to_mapping()) == study
    assert "perturbations" not in Study.from_mapping(BASE).to_mapping()


def test_words_become_levels_each_once() -> None:
    found = PerturbationPlan(("none", "image/all", "text/all", "image/fog@2", "random"))
    assert len(found.expand()) == 96 + 87
    assert (found.clean, found.random) == (True, True)
    assert (PerturbationPlan(("image/fog",)).clean, PerturbationPlan(("image/fog",)).random) == (False, False)


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("image/all", ConfigError, "perturbations must be a list of texts"),
        ({"limit": 3}, ConfigError, "'perturbations.levels' is missing"),
        ({"levels": []}, ConfigError, "names no level"),
        ({"levels": ["none"], "limit": 0}, ConfigError, "perturbations.limit"),
        ({"levels": ["none"], "fallbacks": "yes"}, ConfigError, "perturbations.fallbacks must be true or false"),
        ({"levels": ["none"], "profile": "papers"}, UnknownName, "Did you mean 'paper'"),
        ({"levels": ["none"], "levles": 1}, UnknownName, "levles"),
    ],
)
def test_a_wrong_value_names_its_key(value: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        plan(value)


def test_unknown_levels_are_refused_by_check() -> None:
    for word, error in (("image/fogg@2", UnknownName), ("image/fog@9", InvalidOption)):
        study = Study.from_mapping({**BASE, "perturbations": [word]})
        with pytest.raises(error):
            study.check()
