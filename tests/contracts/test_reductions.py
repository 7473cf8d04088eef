"""What every registered reduction promises, whoever wrote it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from steadyvlm.registry import spec_of

LAYERS, WIDTH, HEADS, KEY_WIDTH = 12, 16, 4, 8


def make_signals(reduction: Reduction, tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Signals:
    """Return what an engine would supply: the declared signals and no other."""
    generator = torch.Generator().manual_seed(seed)
    supply = {
        Signal.ENCODER_ROWS: torch.randn(tokens + 1, WIDTH, generator=generator).to(dtype),
        Signal.CLS_ATTENTION: torch.rand(HEADS, tokens, generator=generator).to(dtype),
        Signal.ENCODER_KEYS: torch.randn(tokens + 1, KEY_WIDTH, generator=generator).to(dtype),
        Signal.LAST_QUERY_ATTENTION: torch.rand(HEADS, tokens, generator=generator).to(dtype),
    }
    wanted: dict[str, Any] = {signal.value: supply[signal] for signal in reduction.needs}
    return Signals(tokens, has_cls=True, seed=seed, **wanted)


def with_signals(signals: Signals, change: Callable[[torch.Tensor], torch.Tensor], reduction: Reduction) -> Signals:
    """Return `signals` with `change` applied to each tensor the method reads."""
    changed: dict[str, Any] = {signal.value: change(signals.require(signal)) for signal in reduction.needs}
    return dataclasses.replace(signals, **changed)


def variants(name: str) -> list[Any]:
    """Return the default, and for methods with these fields other ratios and the other kind of site."""
    factory = REDUCTIONS.load(name)
    known = list(factory.__dataclass_fields__)
    options: list[dict[str, Any]] = [{}]
    if "keep_ratio" in known:
        options += [{"keep_ratio": ratio} for ratio in (0.0, 0.3, 1.0)]
    if "layer" in known:
        options += [{"layer": 7}]
    return [factory(**option) for option in options]


ALL = [pytest.param(value, id=str(spec_of(value, name))) for name in REDUCTIONS for value in variants(name)]
RATIO = [name for name in REDUCTIONS if "keep_ratio" in REDUCTIONS.load(name).__dataclass_fields__]
LAYERED = [name for name in REDUCTIONS if "layer" in REDUCTIONS.load(name).__dataclass_fields__]


def selections(reduction: Reduction, signals: Signals) -> list[tuple[Site, Selection]]:
    """Return one selection per site, or the one at an arbitrary site for a method that never acts."""
    return [(site, reduction.select(signals, site)) for site in reduction.sites(LAYERS) or (Site(3),)]


@pytest.mark.parametrize("reduction", ALL)
def test_it_is_a_frozen_dataclass_that_its_spec_rebuilds(reduction: Any) -> None:
    assert dataclasses.is_dataclass(type(reduction))
    field = next(iter(dataclasses.fields(reduction)), None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        setattr(reduction, field.name if field else "new", 1)
    name = next(name for name in REDUCTIONS if REDUCTIONS.load(name) is type(reduction))
    assert REDUCTIONS.create(str(spec_of(reduction, name))) == reduction
    assert hash(reduction) == hash(dataclasses.replace(reduction))
    assert all(isinstance(signal, Signal) for signal in reduction.needs)
    assert isinstance(reduction, Reduction)


@pytest.mark.parametrize("reduction", ALL)
@pytest.mark.parametrize("tokens", [80, 144, 577])
def test_selections_are_well_formed(reduction: Reduction, tokens: int) -> None:
    for site, selection in selections(reduction, make_signals(reduction, tokens)):
        rows = tokens + 1 if site.in_encoder else tokens
        keep = selection.keep
        assert keep.dtype == torch.int64
        assert keep.dim() == 1
        assert len(set(keep.tolist())) == keep.numel()
        assert all(0 <= index < rows for index in keep.tolist())
        if not site.in_encoder:
            assert keep.tolist() == sorted(keep.tolist())
        if selection.mix is not None:
            assert selection.mix.shape == (keep.numel(), rows)
            assert selection.mix.dtype == torch.float32
            assert (selection.mix[torch.arange(keep.numel()), keep] > 0).all()


@pytest.mark.parametrize("name", RATIO)
def test_keep_ratio_one_changes_nothing(name: str) -> None:
    reduction = REDUCTIONS.load(name)(keep_ratio=1.0)
    for site, selection in selections(reduction, make_signals(reduction, 144)):
        first = 1 if site.in_encoder else 0
        assert selection.keep.tolist() == list(range(first, first + 144))
        assert selection.mix is None


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("tokens", [1, 2, 36, 45, 144, 576])
@pytest.mark.parametrize("keep_ratio", [0.0, 0.1, 0.25, 0.5, 0.9])
def test_ratio_budgets_are_met(name: str, tokens: int, keep_ratio: float) -> None:
    reduction = REDUCTIONS.load(name)(keep_ratio=keep_ratio)
    for _, selection in selections(reduction, make_signals(reduction, tokens)):
        assert selection.keep.numel() == round(tokens * keep_ratio)


@pytest.mark.parametrize("tokens", [64, 144, 576])
@pytest.mark.parametrize(("dominant", "contextual"), [(1, 0), (54, 10), (30, 5)])
def test_absolute_budgets_are_met(tokens: int, dominant: int, contextual: int) -> None:
    reduction = REDUCTIONS.load("visionzip")(dominant=dominant, contextual=contextual)
    for _, selection in selections(reduction, make_signals(reduction, tokens)):
        assert selection.keep.numel() == dominant + contextual


@pytest.mark.parametrize("reduction", ALL)
def test_results_repeat_exactly_and_inputs_stay_untouched(reduction: Reduction) -> None:
    signals, untouched = make_signals(reduction, 144), make_signals(reduction, 144)
    first, second = selections(reduction, signals), selections(reduction, signals)
    for (_, one), (_, two) in zip(first, second, strict=True):
        assert torch.equal(one.keep, two.keep)
        assert (one.mix is None) == (two.mix is None)
        assert one.mix is None or two.mix is None or torch.equal(one.mix, two.mix)
    for signal in reduction.needs:
        assert torch.equal(signals.require(signal), untouched.require(signal))


@pytest.mark.parametrize("reduction", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_are_float32_whatever_the_signals_are(reduction: Reduction, dtype: torch.dtype) -> None:
    low = make_signals(reduction, 144, dtype=dtype)
    exact = with_signals(low, torch.Tensor.float, reduction)
    for (_, one), (_, two) in zip(selections(reduction, low), selections(reduction, exact), strict=True):
        assert torch.equal(one.keep, two.keep)
        assert one.mix is None or one.mix.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in REDUCTIONS if REDUCTIONS.load(name)().needs])
def test_ties_break_towards_the_lower_index(name: str) -> None:
    reduction = REDUCTIONS.load(name)()
    flat = with_signals(make_signals(reduction, 144), lambda tensor: torch.full_like(tensor, 0.1), reduction)
    for _, selection in selections(reduction, flat):
        kept = selection.keep.tolist()
        pruned = kept if selection.mix is None else kept[: reduction.dominant]
        assert pruned == list(range(len(pruned)))


@pytest.mark.parametrize("reduction", ALL)
def test_a_prompt_without_image_keeps_nothing(reduction: Reduction) -> None:
    supplied, bare = make_signals(reduction, 0), Signals(num_tokens=0)
    for _, selection in selections(reduction, supplied) + selections(reduction, bare):
        assert selection.keep.shape == (0,)
        assert selection.keep.dtype == torch.int64
        assert selection.mix is None


@pytest.mark.gpu
@pytest.mark.parametrize("reduction", ALL)
def test_an_accelerator_selects_what_the_cpu_selects(reduction: Reduction) -> None:
    signals = make_signals(reduction, 144)
    moved = with_signals(signals, lambda tensor: tensor.to("cuda"), reduction)
    for (_, here), (_, there) in zip(selections(reduction, signals), selections(reduction, moved), strict=True):
        assert there.keep.device == moved.device
        assert torch.equal(here.keep, there.keep.cpu())
        assert here.mix is None or there.mix is None or torch.equal(here.mix, there.mix.cpu())


@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_the_model_lacks_is_refused(name: str) -> None:
    reduction = REDUCTIONS.load(name)(layer=LAYERS)
    with pytest.raises(InvalidOption, match=f"{name}: layer=12"):
        reduction.sites(LAYERS)


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True, "half"])
def test_a_ratio_out_of_range_is_refused_on_construction(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"{name}: keep_ratio"):
        REDUCTIONS.load(name)(keep_ratio=value)


@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_a_layer_that_is_no_layer_is_refused_on_construction(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"{name}: layer"):
        REDUCTIONS.load(name)(layer=value)


def test_unknown_names_and_options_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fastv'"):
        REDUCTIONS.create("fastvv")
    with pytest.raises(UnknownName, match="Did you mean 'keep_ratio'"):
        REDUCTIONS.create("fastv(keep_ration=0.5)")
