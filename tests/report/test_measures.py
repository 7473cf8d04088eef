from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from steadyvlm.records import Prediction
from steadyvlm.report.data import ReportData
from steadyvlm.report.measures import UNDEFINED, of_difference, of_rate, token_profile


def test_a_rate_carries_denominator_interval_and_method(demo: ReportData) -> None:
    rate = demo.accelerated[0].comparison.divergence_ratio
    shown = of_rate(rate)
    assert shown.of == f"{rate.numerator} of {rate.denominator}"
    assert shown.interval.startswith("[")
    assert "95 % interval (wilson" in shown.title
    assert "worth" in shown.title
    assert (shown.value, shown.low, shown.high) == (rate.value, rate.low, rate.high)


def test_an_undefined_number_is_a_dash_and_says_why(made: Callable[..., ReportData]) -> None:
    found = made(["no", "no"], {"fast": ["no", "yes"]}).arms[0].comparison
    shown = of_rate(found.negative_given_right)
    assert (shown.text, shown.interval, shown.of, shown.defined) == ("–", "", "0 of 0", False)
    assert of_rate(None) is UNDEFINED is of_difference(None)
    nothing = made(["yes"], {"fast": [None]}).arms[0].comparison
    assert of_difference(nothing.score_change).title == "undefined: there were no samples"


def test_a_difference_names_the_clusters_and_the_resamples(demo: ReportData) -> None:
    shown = of_difference(demo.accelerated[-1].comparison.score_change)
    assert "image bootstrap, 5,000 resamples" in shown.title
    assert "45 images or other clusters" in shown.title


def test_token_profile_averages_layers_and_samples(demo: ReportData) -> None:
    profile = token_profile(demo.accelerated[0].predictions)
    assert profile is not None
    assert profile.steps == "144 × 5 layers, 72 × 7 layers"
    assert math.isclose(profile.mean, (5 * 144 + 7 * 72) / 12)
    assert profile.text == "102"


def test_no_profile_without_tokens(demo: ReportData, prediction: Callable[..., Prediction]) -> None:
    assert token_profile([prediction(0)]) is None
    first = demo.original[0]
    assert first.generation is not None
    blind = replace(first.generation, cost=replace(first.generation.cost, visual_tokens_per_layer=(0, 0)))
    assert token_profile([replace(first, generation=blind)]) is None


def test_samples_of_another_depth_are_left_out_of_the_profile(demo: ReportData) -> None:
    first = demo.original[0]
    assert first.generation is not None
    short = replace(first.generation, cost=replace(first.generation.cost, visual_tokens_per_layer=(9,)))
    profile = token_profile([first, replace(first, generation=short)])
    assert profile is not None
    assert (profile.samples, profile.mean) == (1, 144.0)
