"""Tokens per layer of published settings: found by driving the methods, held against the specification's table."""

from __future__ import annotations

import pytest

from steadyvlm.reduction.presets import PRESETS
from steadyvlm.registry import Spec
from steadyvlm.report.token_map import runs_of_layers

pytest.importorskip("torch", reason="the light tests run without the extra 'models'")

from steadyvlm.cli import schedule
from steadyvlm.cli.schedule import cost_of_schedule, schedule_of

# (layers: count) and the mean over 32 layers, for 576 tokens
PUBLISHED = {
    "fastv-k3-50": ("0-2: 576; 3-31: 288", 315.0),
    "fastv-k2-50": ("0-1: 576; 2-31: 288", 306.0),
    "fastv-k2-75": ("0-1: 576; 2-31: 144", 171.0),
    "pyramiddrop-8-16-24": ("0-7: 576; 8-15: 288; 16-23: 144; 24-31: 72", 270.0),
    "vtw-15": ("0-14: 576; 15-31: 0", 270.0),
    "vtw-16": ("0-15: 576; 16-31: 0", 288.0),
    "sparsevlm-192": ("0-2: 576; 3-6: 309; 7-15: 204; 16-31: 113", 206.5),
    "sparsevlm-128": ("0-2: 576; 3-6: 312; 7-15: 117; 16-31: 39", 145.4),
    "sparsevlm-96": ("0-2: 576; 3-6: 249; 7-15: 55; 16-31: 27", 114.1),
    "sparsevlm-64": ("0-2: 576; 3-6: 82; 7-15: 32; 16-31: 18", 82.3),
    "sparsevlm-plus-192": ("0-2: 576; 3-6: 300; 7-15: 200; 16-31: 118", 206.8),
    "sparsevlm-plus-128": ("0-2: 576; 3-6: 238; 7-15: 108; 16-31: 60", 144.1),
    "sparsevlm-plus-96": ("0-2: 576; 3-6: 246; 7-15: 54; 16-31: 28", 113.9),
    "sparsevlm-plus-64": ("0-2: 576; 3-6: 66; 7-15: 34; 16-31: 20", 81.8),
    "visionzip-192": ("0-31: 192", 192.0),
    "visionzip-128": ("0-31: 128", 128.0),
    "visionzip-64": ("0-31: 64", 64.0),
    "hired-20": ("0-31: 115", 115.0),
    "hired-10": ("0-31: 57", 57.0),
    "hired-40": ("0-31: 230", 230.0),
    "divprune-9.8": ("0-31: 56", 56.0),
    "divprune-128": ("0-31: 128", 128.0),
    "lvpruning-90": ("0: 576; 1-7: 380; 8-15: 201; 16-31: 57", 179.9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_setting_has_the_published_tokens_in_every_layer(name: str) -> None:
    found = schedule_of(PRESETS[name].spec)
    assert found is not None
    runs = (f"{a}: {n}" if a == b else f"{a}-{b}: {n}" for a, b, n in runs_of_layers(found.per_layer))
    assert "; ".join(runs) == PUBLISHED[name][0]
    assert found.mean == pytest.approx(PUBLISHED[name][1], abs=0.051)


@pytest.mark.parametrize(
    "name", ["prumerge-adaptive", "prumerge-plus-adaptive", "trim-auto", "lofi-4", "sparsevlm-first-192"]
)
def test_what_depends_on_the_picture_has_no_number(name: str) -> None:
    assert schedule_of(PRESETS[name].spec) is None


def test_an_encoder_method_sends_fewer_tokens_through_the_connector() -> None:
    zipped, fast = schedule_of(Spec("visionzip", {})), schedule_of(Spec("fastv", {}))
    assert zipped is not None
    assert fast is not None
    assert (zipped.encoded, fast.encoded) == (64, 576)


def test_a_smaller_picture_has_fewer_tokens_everywhere() -> None:
    spec = Spec.parse("downsample(keep_ratio=0.5)")
    found = schedule_of(spec)
    assert found is not None
    assert (found.per_layer, found.encoded) == ((17 * 17,) * 32, 289)
    cost = cost_of_schedule(spec, found)
    assert cost is not None
    assert cost[1] < 0.55, "the vision tower too sees a smaller picture"


def test_nothing_dropped_costs_what_the_original_costs() -> None:
    spec = Spec("keep_all", {})
    found = schedule_of(spec)
    assert found is not None
    assert cost_of_schedule(spec, found) == (pytest.approx(8.84, abs=0.01), 1.0)


def test_a_method_whose_choosing_is_not_billed_has_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec("fastv", {})
    found = schedule_of(spec)
    assert found is not None
    monkeypatch.setattr("steadyvlm.cost.scoring_of", lambda *_: None)
    assert cost_of_schedule(spec, found) is None


def test_signals_are_of_different_kinds() -> None:
    import torch

    made = [schedule._made((4, 50), kind, torch.Generator().manual_seed(0)) for kind in schedule._KINDS]
    spread = [float(value.std()) for value in made]
    assert spread[0] < 0.05 < 1.5 < spread[1]
    assert all(torch.equal(row, made[2][0]) for row in made[2])
