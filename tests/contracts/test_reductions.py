"""What every registered reduction promises, whoever wrote it: its arithmetic, on made-up signals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from reduction_cases import LAYERS, TILED, default_options, make, make_signals, selections, variants, with_signals
from steadyvlm.engine.selections import merged_slots
from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import FamilyAware, Rating, Reduction, Rescaling, Signal, Signals, Site, TextAware
from steadyvlm.reduction.tensor_ops import complement
from steadyvlm.registry import spec_of

ALL = [pytest.param(value, id=f"{name}-{index}") for name in REDUCTIONS for index, value in enumerate(variants(name))]
FIELDS = {name: list(REDUCTIONS.load(name).__dataclass_fields__) for name in REDUCTIONS}
RATIO = [name for name in REDUCTIONS if "keep_ratio" in FIELDS[name]]
LAYERED = [name for name in REDUCTIONS if "layer" in FIELDS[name]]
FAMILIES = {"llava", "llava_next", "qwen2_vl", "qwen2_5_vl"}


@pytest.mark.parametrize("reduction", ALL)
def test_it_is_a_frozen_dataclass_that_its_spec_rebuilds(reduction: Any) -> None:
    assert dataclasses.is_dataclass(type(reduction))
    field = next(iter(dataclasses.fields(reduction)), None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        setattr(reduction, field.name if field else "new", 1)
    name = next(name for name in REDUCTIONS if REDUCTIONS.load(name) is type(reduction))
    assert REDUCTIONS.create(str(spec_of(reduction, name))) == reduction
    assert hash(reduction) == hash(dataclasses.replace(reduction))
    assert isinstance(reduction, Reduction)


@pytest.mark.parametrize("reduction", ALL)
def test_it_says_what_its_signals_and_families_ask_of_it(reduction: Any) -> None:
    sites = reduction.sites(LAYERS)
    assert all(isinstance(signal, Signal) for signal in reduction.needs)
    assert len(set(sites)) == len(sites)
    layers = [site.layer for site in sites if site.layer is not None]
    assert layers == sorted(layers)
    if {signal.of_encoder for signal in reduction.needs} == {True}:
        assert [site for site in sites if not site.in_encoder] == []
    rates = bool(reduction.needs & {Signal.RATER_ATTENTION, Signal.RATER_ROTARY})
    assert isinstance(reduction, Rating) == rates
    assert isinstance(reduction, TextAware) == (Signal.TEXT_RELEVANCE in reduction.needs)
    if isinstance(reduction, Rescaling):
        assert 0 < reduction.image_scale <= 1
    if isinstance(reduction, FamilyAware):
        stated = {**reduction.equivalents, **reduction.refusals}
        assert stated.keys() <= FAMILIES
        assert not reduction.equivalents.keys() & reduction.refusals.keys()
        assert all(text.strip() for text in stated.values())


@pytest.mark.parametrize("reduction", ALL)
@pytest.mark.parametrize("tokens", [80, 144, 577])
def test_selections_are_well_formed(reduction: Reduction, tokens: int) -> None:
    for site, signals, selection in selections(reduction, tokens):
        check(reduction, site, signals, selection)


@pytest.mark.parametrize(
    "reduction", [value for value in ALL if "llava_next" not in getattr(value.values[0], "refusals", ())]
)
def test_selections_on_tiles_are_well_formed(reduction: Reduction) -> None:
    for site, signals, selection in selections(reduction, 720, layout=TILED):
        check(reduction, site, signals, selection)


def check(reduction: Reduction, site: Site, signals: Signals, selection: Any) -> None:
    rows = signals.layout.rows if signals.layout is not None else signals.num_tokens
    keep = selection.keep
    assert keep.dtype == torch.int64
    assert keep.dim() == 1
    assert len(set(keep.tolist())) == keep.numel()
    assert all(0 <= index < rows for index in keep.tolist())
    if not (site.in_encoder or reduction.compact_positions):
        assert keep.tolist() == sorted(keep.tolist())
    if selection.mix is not None:
        assert selection.mix.shape == (keep.numel(), rows)
        assert selection.mix.dtype == torch.float32
        assert selection.mix.isfinite().all()


@pytest.mark.parametrize("name", RATIO)
def test_keep_ratio_one_changes_nothing(name: str) -> None:
    for site, _, selection in selections(make(name, keep_ratio=1.0), 144):
        first = 1 if site.in_encoder else 0
        assert selection.keep.tolist() == list(range(first, first + 144))
        assert selection.mix is None


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("tokens", [1, 2, 36, 45, 144, 576])
@pytest.mark.parametrize("keep_ratio", [0.1, 0.25, 0.5, 0.9])
def test_ratio_budgets_are_met_within_a_token_and_a_merged_one(name: str, tokens: int, keep_ratio: float) -> None:
    for _, _, selection in selections(make(name, keep_ratio=keep_ratio), tokens):
        assert tokens * keep_ratio - 1 < selection.keep.numel() <= tokens * keep_ratio + 2


@pytest.mark.parametrize("reduction", ALL)
def test_results_repeat_exactly_and_inputs_stay_untouched(reduction: Reduction) -> None:
    first, second = selections(reduction, 144), selections(reduction, 144)
    for (site, signals, one), (_, _, two) in zip(first, second, strict=True):
        assert torch.equal(one.keep, two.keep)
        assert (one.mix is None) == (two.mix is None)
        assert one.mix is None or two.mix is None or torch.equal(one.mix, two.mix)
        untouched = make_signals(reduction, site, 144)
        for signal in Signal:
            if getattr(untouched, signal.value) is not None:
                assert torch.equal(signals.require(signal), untouched.require(signal))


@pytest.mark.parametrize("reduction", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_are_float32_whatever_the_signals_are(reduction: Reduction, dtype: torch.dtype) -> None:
    low = selections(reduction, 144, dtype=dtype)
    exact = selections(reduction, 144, torch.Tensor.float, dtype=dtype)
    for (_, _, one), (_, _, two) in zip(low, exact, strict=True):
        assert torch.equal(one.keep, two.keep)
        assert one.mix is None or one.mix.dtype == torch.float32


UNRANKED = {
    "random": "reads no scores",
    "prumerge_plus": "adds samples of the grid",
    "visionzip": "targets of the merge are spread over the picture; its own test checks the dominant rows",
}


@pytest.mark.parametrize("name", [name for name in REDUCTIONS if name not in UNRANKED])
def test_ties_break_towards_the_lower_index(name: str) -> None:
    for site, _, selection in selections(make(name), 144, lambda tensor: torch.full_like(tensor, 0.1)):
        first = 1 if site.in_encoder else 0
        kept = selection.keep[complement(merged_slots(selection), selection.keep.numel())].tolist()
        assert kept == list(range(first, first + len(kept)))


@pytest.mark.parametrize("reduction", ALL)
def test_a_prompt_without_image_keeps_nothing(reduction: Reduction) -> None:
    for site in reduction.sites(LAYERS):
        for signals in (make_signals(reduction, site, 0), Signals(num_tokens=0)):
            selection = reduction.select(signals, site)
            assert selection.keep.shape == (0,)
            assert selection.keep.dtype == torch.int64
            assert selection.mix is None


@pytest.mark.gpu
@pytest.mark.parametrize("reduction", ALL)
def test_an_accelerator_selects_what_the_cpu_selects(reduction: Reduction) -> None:
    for site, signals, here in selections(reduction, 144):
        moved = with_signals(signals, lambda tensor: tensor.to("cuda"))
        if moved.images is not None:
            moved = dataclasses.replace(moved, images=moved.images.to("cuda"))
        there = reduction.select(moved, site)
        assert there.keep.device == moved.device
        assert torch.equal(here.keep, there.keep.cpu())
        if here.mix is not None and there.mix is not None:
            torch.testing.assert_close(here.mix, there.mix.cpu())


@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_the_model_lacks_is_refused(name: str) -> None:
    reduction = make(name, layer=LAYERS)
    with pytest.raises(InvalidOption, match=f"{name}: layer=32"):
        reduction.sites(LAYERS)


@pytest.mark.parametrize("name", RATIO)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), True, "half"])
def test_a_ratio_out_of_range_is_refused_on_construction(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"{name}: keep_ratio"):
        make(name, keep_ratio=value)


@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_a_layer_that_is_no_layer_is_refused_on_construction(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"{name}: layer"):
        make(name, layer=value)


def test_unknown_names_and_options_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'fastv'"):
        REDUCTIONS.create("fastvv")
    with pytest.raises(UnknownName, match="Did you mean 'keep_ratio'"):
        REDUCTIONS.create("fastv(keep_ration=0.5)")


def test_methods_the_contract_cannot_check_are_named_with_a_reason() -> None:
    assert UNRANKED.keys() <= set(REDUCTIONS)
    assert all(not default_options(name) for name in REDUCTIONS if name not in ("lvpruning", "quota"))
