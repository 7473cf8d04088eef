from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from reduction_cases import make_signals, with_signals
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import CachePruning, Signal, Signals, Site
from steadyvlm.reduction.quota import Quota
from steadyvlm.registry import spec_of

LAYERS = (2, 3, 4, 5, 6)
FIXED: dict[str, Any] = {"layers": LAYERS, "keep_ratios": "uniform"}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"apply": "own"},
    {"v_source": "input"},
    {"residual_domain": "transformed"},
    {"quant_relative": True},
    {"residual_domain": "transformed", "quant_relative": True, "weights": (0.4, 0.0, 0.2, 0.4)},
    {"intra_causal_correction": True},
    {"residual_bits": 3, "percentiles": (0, 100), "rounding": "round"},
    {"weights": (0.5625, 0.3125, 0.125, 0.0)},
    {"weights": (0.0, 0.0, 0.0, 1.0)},
]


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below, above = math.floor(place), math.ceil(place)
    return ordered[below] * (1 - (place - below)) + ordered[above] * (place - below)


def norm(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


def reference_scores(method: Quota, signals: Signals) -> list[float]:
    """Sections 2.8 and 2.9 of the specification, in float64 with Python loops."""

    def listed(signal: Signal) -> Any:
        return signals.require(signal).double().tolist()

    tokens = signals.num_tokens
    state = Signal.HIDDEN if method.v_source == "output" else Signal.HIDDEN_BEFORE
    metrics: list[list[float] | None] = [None] * 4
    if method.weights[0]:
        metrics[0] = listed(Signal.QUESTION_ATTENTION)
    if method.weights[1]:
        metrics[1] = [norm(row) for row in listed(state)]
    if method.weights[2]:
        metrics[2] = listed(Signal.VISUAL_ATTENTION)
        if method.intra_causal_correction:
            metrics[2] = [value * tokens / (tokens - place) for place, value in enumerate(metrics[2])]
    if method.weights[3]:
        if method.residual_domain == "raw":
            most, metrics[3] = 2 ** (method.residual_bits - 1) - 1, []
            for row in listed(state):
                scale = max(map(abs, row)) / most
                metrics[3].append(norm([x - scale * max(-most - 1, min(most, round(x / scale))) for x in row]))
        else:
            metrics[3] = listed(Signal.QUANTIZATION_RESIDUAL)
        if method.quant_relative:
            metrics[3] = [lost / norm(row) for lost, row in zip(metrics[3], listed(state), strict=True)]
    total = [0.0] * tokens
    for weight, metric in zip(method.weights, metrics, strict=True):
        if metric is not None:
            low, high = (percentile(metric, percent) for percent in method.percentiles)
            for place, value in enumerate(metric):
                total[place] += weight * min(1.0, max(0.0, (value - low) / (high - low + 1e-8)))
    return total


def seen(method: Quota, site: Site, tokens: int, original: int, seed: int = 0) -> Signals:
    signals = make_signals(method, site, tokens, seed=seed)
    signals = dataclasses.replace(signals, original_tokens=original, image_tokens=(original,))
    if signals.quantization_residual is None:
        return signals
    return dataclasses.replace(signals, quantization_residual=signals.quantization_residual.abs())


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("tokens", [36, 144, 576])
def test_scores_and_selection_agree_with_a_float64_reimplementation(tokens: int, options: dict[str, Any]) -> None:
    method, left = Quota(**FIXED | options), tokens
    for stage, site in enumerate(method.sites(32)):
        signals = seen(method, site, left, tokens, seed=stage)
        scores = reference_scores(method, signals)
        assert method.scores(signals).tolist() == pytest.approx(scores, abs=2e-5)
        wanted = (1 - 0.7 * (stage + 1) / 5) * tokens
        k = min(left, round(wanted) if method.rounding == "round" else math.ceil(wanted - 1e-9))
        selection = method.select(signals, site)
        assert selection.mix is None
        assert selection.keep.numel() == k
        assert selection.keep.tolist() == sorted(selection.keep.tolist())
        ranked = sorted(range(left), key=lambda place: (-scores[place], place))
        cut = (scores[ranked[k - 1]] + scores[ranked[k]]) / 2
        clear = [place for place in range(left) if abs(scores[place] - cut) > 2e-5]
        kept = set(selection.keep.tolist())
        assert len(clear) >= left - 4
        assert all((place in kept) == (scores[place] > cut) for place in clear)
        left = k
    assert left == math.ceil(0.3 * tokens - 1e-9) or method.rounding == "round"


def test_the_published_operating_point_keeps_173_of_576() -> None:
    counts = [Quota(**FIXED).budget(ratio, 576, 576) for ratio in Quota(**FIXED).ratios]
    assert counts == [496, 415, 335, 254, 173]


def test_ratios_of_a_stored_number_are_clamped_to_what_is_there() -> None:
    method = Quota(**FIXED, tokens=576)
    assert method.budget(0.3, 1200, 900) == 173
    assert method.budget(0.3, 100, 100) == 100
    assert Quota(**FIXED, floor=0.01, percentiles=(0, 100), k_min=4).budget(0.01, 100, 80) == 4


def test_each_picture_can_have_a_budget_of_its_own() -> None:
    images = torch.tensor([0] * 4 + [1] * 12)
    asked = torch.cat([torch.linspace(0.01, 0.02, 4), torch.linspace(0.5, 0.9, 12)])
    signals = Signals(16, images=images, original_tokens=16, image_tokens=(4, 12), question_attention=asked)
    options = {"layers": (2,), "keep_ratios": (0.5,), "weights": (1, 0, 0, 0)}
    together, each = Quota(**options), Quota(**options, scope="image")
    assert together.select(signals, Site(3)).keep.tolist() == list(range(8, 16))
    assert each.select(signals, Site(3)).keep.tolist() == [2, 3, 10, 11, 12, 13, 14, 15]
    alone = dataclasses.replace(signals, images=torch.zeros(16, dtype=torch.int64), image_tokens=(16,))
    assert torch.equal(each.select(alone, Site(3)).keep, together.select(alone, Site(3)).keep)


@pytest.mark.parametrize("options", VARIANTS)
def test_selection_is_the_same_however_signals_lie_in_memory_and_whenever_it_is_asked(options: dict[str, Any]) -> None:
    method = Quota(**FIXED | options)

    def spread(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.repeat_interleave(2)[::2] if tensor.dim() == 1 else tensor.T.contiguous().T

    for site in method.sites(32):
        signals = seen(method, site, 576, 576)
        first = method.select(signals, site).keep.tolist()
        assert method.select(signals, site).keep.tolist() == first
        assert method.select(with_signals(signals, spread), site).keep.tolist() == first


def test_ties_keep_the_tokens_that_come_first() -> None:
    method = Quota(layers=(2,), keep_ratios=(0.5,), weights=(0.5, 0.25, 0, 0.25))
    row = torch.tensor([3.0, -1.0, 0.4])
    states = torch.stack([row, row[[1, 0, 2]], row, row[[1, 0, 2]], row, row])  # as long, and rounded as badly
    signals = Signals(6, original_tokens=6, question_attention=torch.full((6,), 0.1), hidden=states)
    assert method.select(signals, Site(3)).keep.tolist() == [0, 1, 2]


def test_it_acts_behind_each_candidate_layer_or_in_front_of_it() -> None:
    assert Quota(**FIXED).sites(12) == tuple(Site(layer + 1) for layer in LAYERS)
    assert Quota(**FIXED, apply="own").sites(12) == tuple(Site(layer) for layer in LAYERS)
    assert not Quota().compact_positions
    assert isinstance(Quota(), CachePruning)
    assert Quota().prune_cache
    assert not Quota(apply="own").prune_cache, "there they never enter the layer's cache"
    assert not Quota(prune_cache=False).prune_cache


def test_it_asks_only_for_what_its_weights_use() -> None:
    question, visual, state = Signal.QUESTION_ATTENTION, Signal.VISUAL_ATTENTION, Signal.HIDDEN
    assert Quota().needs == {question, visual, state}
    assert Quota(weights=(1, 0, 0, 0)).needs == {question}
    assert Quota(weights=(0, 0, 1, 0)).needs == {visual}
    assert Quota(weights=(0, 1, 0, 0), v_source="input").needs == {Signal.HIDDEN_BEFORE}
    assert Quota(weights=(0, 0, 0, 1)).needs == {state}
    lost = {"weights": (0, 0, 0, 1), "residual_domain": "transformed"}
    assert Quota(**lost).needs == {Signal.QUANTIZATION_RESIDUAL}
    assert Quota(**lost, quant_relative=True).needs == {Signal.QUANTIZATION_RESIDUAL, state}
    assert Quota(residual_domain="transformed").needs == {question, visual, state, Signal.QUANTIZATION_RESIDUAL}


@pytest.mark.parametrize(
    "options", [{}, {"layers": LAYERS}, {"keep_ratios": "uniform"}, {"layers": LAYERS, "keep_ratios": "auto"}]
)
def test_what_calibration_has_not_found_yet_is_refused_with_what_to_do(options: dict[str, Any]) -> None:
    method = Quota(**options)
    assert method.is_auto
    with pytest.raises(Unsupported, match=r"steadyvlm calibrate.*keep_ratios='uniform'"):
        method.sites(32)
    with pytest.raises(Unsupported, match="calibration"):
        _ = method.ratios


def test_a_schedule_in_full_needs_no_calibration() -> None:
    for method in (Quota(**FIXED), Quota(layers=(2, 3), keep_ratios=(0.5, 0.4))):
        assert not method.is_auto
    assert Quota(layers=(2, 3), keep_ratios=(0.5, 0.4)).floor == 0.4


def test_equal_recipes_have_equal_text() -> None:
    texts = {
        str(spec_of(REDUCTIONS.create(text), "quota"))
        for text in (
            "quota(layers=[2, 3], keep_ratios=[0.5, 0.3], weights=[0.45, 0.25, 0.1, 0.2])",
            "quota(layers=(2, 3), keep_ratios=(0.5, 0.3), floor=0.3, percentiles=[5, 95])",
        )
    }
    assert len(texts) == 1
    text = texts.pop()
    assert str(spec_of(REDUCTIONS.create(text), "quota")) == text
    assert hash(REDUCTIONS.create(text)) == hash(Quota(layers=(2, 3), keep_ratios=(0.5, 0.3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (1, 2)}, "first 2 layers"),
        ({"layers": (2, 4)}, "neighbouring"),
        ({"layers": "all"}, "no range of decoder layers"),
        ({"layers": ()}, "no range"),
        ({"keep_ratios": (0.5, 0.3)}, "without layers"),
        ({"layers": (2, 3), "keep_ratios": (0.3, 0.5)}, "asks for more"),
        ({"layers": (2, 3), "keep_ratios": (0.5,)}, "1 values for 2 layers"),
        ({"layers": (2, 3), "keep_ratios": (0.5, 0.0)}, "floor"),
        ({"layers": (2, 3), "keep_ratios": (0.5, 0.4), "floor": 0.2}, "end at 0.4"),
        ({"layers": (2, 3), "keep_ratios": "even"}, "keep_ratios"),
        ({"floor": 0}, "floor=0"),
        ({"floor": 1.2}, "floor"),
        ({"floor": True}, "floor"),
        ({"floor": 0.05}, "all score 1"),
        ({"weights": (0.45, 0.25, 0.1)}, "four weights"),
        ({"weights": (0.5, 0.25, 0.1, 0.2)}, "sum to 1.05"),
        ({"weights": (1.2, -0.2, 0, 0)}, "each from 0"),
        ({"weights": 0.25}, "four weights"),
        ({"percentiles": (95, 5)}, "low and a high"),
        ({"percentiles": (5,)}, "low and a high"),
        ({"percentiles": "wide"}, "low and a high"),
        ({"sensitivity_percentiles": (0, 101)}, "sensitivity_percentiles"),
        ({"apply": "before"}, "apply='before'"),
        ({"scope": "batch"}, "scope"),
        ({"v_source": "value"}, "v_source"),
        ({"residual_domain": "fine"}, "residual_domain"),
        ({"rounding": "floor"}, "'ceil' or 'round'"),
        ({"sensitivity_mode": "global"}, "sensitivity_mode"),
        ({"sensitivity_rows": "text"}, "sensitivity_rows"),
        ({"residual_bits": 1}, "residual_bits"),
        ({"residual_bits": 9}, "2 to 8"),
        ({"tokens": -1}, "tokens"),
        ({"k_min": 0}, "k_min"),
        ({"max_layers": 0}, "max_layers"),
        ({"samples": 0}, "samples"),
        ({"seed": -1}, "seed"),
        ({"tau": 0}, "tau"),
        ({"tau": math.inf}, "tau"),
        ({"prune_cache": 1}, "prune_cache"),
        ({"quant_relative": "yes"}, "quant_relative"),
        ({"intra_causal_correction": None}, "intra_causal_correction"),
        ({"calibration": ""}, "calibration"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Quota(**options)


@pytest.mark.parametrize(("apply", "last"), [("next", 10), ("own", 11)])
def test_a_layer_beyond_the_model_is_refused(apply: str, last: int) -> None:
    fits = Quota(layers=(last,), keep_ratios="uniform", apply=apply)
    assert fits.sites(12)[-1] == Site(11)
    beyond = Quota(layers=(last, last + 1), keep_ratios="uniform", apply=apply)
    with pytest.raises(InvalidOption, match=f"12 layers.*can be layer {last}"):
        beyond.sites(12)


def test_without_an_image_it_keeps_nothing() -> None:
    assert Quota(**FIXED).select(Signals(0), Site(3)).keep.numel() == 0
