from __future__ import annotations

import pytest

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.presets import PRESETS, Shape, preset, resolve
from steadyvlm.registry import Spec

POCKET = Shape(layers=12, tile_tokens=144, tokens=144)
TILED = Shape(layers=32, tile_tokens=576, tokens=2928, varies=True)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_method_with_options_it_takes(name: str) -> None:
    assert preset(name).name == name
    assert "-" in name, "a hyphen tells presets from methods"
    assert preset(name).source
    REDUCTIONS.create(preset(name).spec)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [POCKET, TILED, Shape(28, 320, 320, varies=True), Shape(40)])
def test_every_preset_fits_other_models(name: str, shape: Shape) -> None:
    spec, note = resolve(name, shape)
    method = REDUCTIONS.create(spec)
    assert bool(note) == (spec != preset(name).spec)
    if spec.name not in ("lvpruning", "quota"):  # whose layers are those of trained modules, or found by calibration
        assert all(site.layer is None or site.layer < shape.layers for site in method.sites(shape.layers))


@pytest.mark.parametrize("name", PRESETS)
def test_at_the_papers_model_nothing_is_scaled(name: str) -> None:
    assert resolve(name, Shape()) == (preset(name).spec, "")


@pytest.mark.parametrize(
    ("name", "expected", "note"),
    [
        ("visionzip-192", "visionzip(contextual=8, dominant=40)", "576 visual tokens to 144"),
        ("visionzip-64", "visionzip(contextual=2, dominant=14)", "576 visual tokens to 144"),
        ("fastv-k2-50", "fastv(keep_ratio=0.5, layer=1)", "32 layers to 12"),
        ("fastv-k3-75", "fastv(keep_ratio=0.25, layer=1)", "32 layers to 12"),
        ("vtw-15", "vtw(layer=6)", "32 layers to 12"),
        (
            "sparsevlm-192",
            "sparsevlm(keep=(75, 50, 28), layers=(0, 2, 5), version='1.5')",
            "32 layers to 12 and from 576 visual tokens to 144",
        ),
        (
            "sparsevlm-first-128",
            "sparsevlm(bias=1.5, layers=(0, 2, 5, 7), scale=2.25, version='first')",
            "32 layers to 12 and from 576 visual tokens to 144",
        ),
        ("sparsevlm-plus-64", "sparsevlm_plus(keep=(16, 8, 5), layers=(0, 2, 5))", "32 layers to 12"),
    ],
)
def test_scaled_to_the_pocket_model_by_hand(name: str, expected: str, note: str) -> None:
    spec, text = resolve(name, POCKET)
    assert str(spec) == expected
    assert text.startswith(f"{name} is scaled from {note}")
    assert text.endswith(expected)


@pytest.mark.parametrize("name", ["hired-20", "divprune-9.8", "prumerge-adaptive", "trim-auto", "lofi-fixed-85"])
def test_shares_need_no_scaling(name: str) -> None:
    assert resolve(name, POCKET) == (preset(name).spec, "")


def test_where_pictures_differ_decoder_counts_become_shares() -> None:
    spec, note = resolve("sparsevlm-192", TILED)
    assert spec.options["keep"] == (0.5209, 0.3473, 0.191)
    assert [int(576 * share) for share in (0.5209, 0.3473, 0.191)] == [300, 200, 110]
    assert "576 visual tokens to shares of each picture" in note
    assert resolve("visionzip-64", TILED)[1] == "", "VisionZip counts in each tile"


def test_layers_stay_in_order_and_off_the_first() -> None:
    assert resolve("pyramiddrop-8-16-24", Shape(layers=4))[0].options["layers"] == (1, 2, 3)
    assert resolve("fastv-k2-50", Shape(layers=2))[0].options["layer"] == 1
    assert resolve("sparsevlm-64", Shape(layers=6))[0].options["layers"] == (0, 1, 2)


def test_a_decoder_with_too_few_layers_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"pyramiddrop-8-16-24 acts at 3 places .* decoder of 3"):
        resolve("pyramiddrop-8-16-24", Shape(layers=3))
    with pytest.raises(InvalidOption, match="vtw-15"):
        resolve("vtw-15", Shape(layers=1))


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'visionzip-192'"):
        preset("visionzip-191")


def test_the_table_holds_the_papers_settings() -> None:
    assert preset("pyramiddrop-8-16-24").spec == Spec(
        "pyramiddrop", {"layers": (8, 16, 24), "keep_ratios": (0.5, 0.25, 0.125)}
    )
    assert preset("visionzip-128").spec.options == {"dominant": 108, "contextual": 20}
    assert preset("fastv-k3-50").spec.options == {"layer": 3, "keep_ratio": 0.5}
    assert preset("lofi-6").spec.options == {"beta": 6.0}
