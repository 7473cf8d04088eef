from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvlm.cost import (
    PROFILES,
    PUBLISHED,
    Counts,
    DecoderSizes,
    ModelSizes,
    Profile,
    QwenVisionSizes,
    count,
    decoder,
    profile,
    published,
    ratios,
    vision,
)
from steadyvlm.cost.scoring import Scoring
from steadyvlm.errors import InvalidOption, UnknownName

LLAVA = published("llava-1.5-7b")
WHOLE = Counts((576,) * 32, text=61, grids=((1, 24, 24),), connector_tokens=576, generated=3)
SMALL = DecoderSizes(layers=3, width=8, mlp_width=5, heads=4, kv_heads=2, head_width=2, vocabulary=11)


def multiply(rows: int, inner: int, columns: int) -> int:
    """Count the multiplications of a matrix product one by one."""
    return sum(1 for _ in range(rows) for _ in range(inner) for _ in range(columns))


def by_hand(sizes: DecoderSizes, tokens: int) -> int:
    """One layer of prefill, matrix by matrix."""
    total = multiply(tokens, sizes.width, sizes.heads * sizes.head_width)
    total += 2 * multiply(tokens, sizes.width, sizes.kv_heads * sizes.head_width)
    for _ in range(sizes.heads):
        total += multiply(tokens, sizes.head_width, tokens) + multiply(tokens, tokens, sizes.head_width)
    total += multiply(tokens, sizes.heads * sizes.head_width, sizes.width)
    return total + 3 * multiply(tokens, sizes.width, sizes.mlp_width)


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_a_layer_is_the_sum_of_its_matrix_products(tokens: int) -> None:
    assert decoder.layer(SMALL, tokens).macs == by_hand(SMALL, tokens)


def test_prefill_and_steps_add_up_to_one_causal_pass() -> None:
    """Fed token by token, each attends to what came before: the lower triangle instead of the square."""
    tokens = 9
    steps = sum(decoder.step(SMALL, cached).macs for cached in range(tokens))
    dense = decoder.layer(SMALL, tokens)
    assert steps == dense.projections + dense.mlp + dense.attention * (tokens + 1) // (2 * tokens)
    assert decoder.decode(SMALL, [0, 0, 0], tokens) == 3 * steps


def test_decoding_uses_each_layers_own_cache() -> None:
    steps = [decoder.step(SMALL, cached + step).macs for cached in (5, 3, 1) for step in range(4)]
    assert decoder.decode(SMALL, [5, 3, 1], 4) == sum(steps)
    assert decoder.decode(SMALL, [5, 3, 1], 0) == 0


def test_the_last_layer_may_answer_for_one_row() -> None:
    one = decoder.last_layer(SMALL, 7)
    whole = decoder.layer(SMALL, 7)
    assert one.mlp * 7 == whole.mlp
    assert one.attention * 7 == whole.attention
    assert decoder.last_layer(SMALL, 0).macs == 0


def test_a_bill_line_by_line() -> None:
    work = (Scoring("attention rows", 17),)
    bill = count(replace(WHOLE, scoring=work), LLAVA)
    layer = decoder.layer(LLAVA.decoder, 637).macs
    assert bill.layers == (layer,) * 32
    assert bill.vision == vision.clip(LLAVA.vision, (24, 24), layers=23)  # type: ignore[arg-type]  # a CLIP tower
    assert bill.head == 4096 * 32000
    assert bill.prefill == bill.vision + bill.connector + 32 * layer + bill.head + 17
    assert bill.decode == decoder.decode(LLAVA.decoder, [637] * 32, 2) + 2 * bill.head
    assert bill.macs == bill.prefill + bill.decode
    assert bill.flops == 2 * bill.macs
    assert bill.cache_bytes == 2 * 4096 * 2 * 32 * (637 + 2)


def test_the_engines_own_profile_counts_one_row_of_the_last_layer() -> None:
    default, engine = count(WHOLE, LLAVA), count(WHOLE, LLAVA, "engine")
    assert engine.layers[:-1] == default.layers[:-1]
    assert engine.layers[-1] == decoder.last_layer(LLAVA.decoder, 637).macs
    assert engine.decode == default.decode


def test_paper_profiles_leave_out_what_the_papers_leave_out() -> None:
    bill = count(replace(WHOLE, scoring=(Scoring("rows", 5),)), LLAVA, "fastv-paper")
    tokens = 637
    formula = 32 * (4 * tokens * 4096**2 + 2 * tokens**2 * 4096 + 2 * tokens * 4096 * 11008)
    assert bill.flops == bill.macs == formula
    assert (bill.vision, bill.connector, bill.head, bill.decode, bill.scoring) == (0, 0, 0, 0, ())
    assert count(replace(WHOLE, text=999), LLAVA, "quota-table4") == count(WHOLE, LLAVA, "quota-table4")
    assert [item.name for item in PROFILES.values() if item.fitted] == ["quota-table4"]


def test_tiles_pictures_and_text_only_prompts() -> None:
    sizes = published("llava-next-vicuna-7b")
    tiles = count(replace(WHOLE, grids=((5, 24, 24),)), sizes)
    pictures = count(replace(WHOLE, grids=((1, 24, 24),) * 5), sizes)
    assert tiles.vision == pictures.vision == 5 * count(WHOLE, sizes).vision
    alone = count(Counts((0,) * 32, text=20), LLAVA)
    assert (alone.vision, alone.connector) == (0, 0)
    assert alone.layers[0] == decoder.layer(LLAVA.decoder, 20).macs


def test_qwen_merges_inside_its_tower_and_needs_no_connector() -> None:
    sizes = published("qwen2.5-vl-7b")
    counts = Counts((324,) * 28, text=40, grids=((1, 36, 36), (1, 4, 10)))
    bill = count(counts, sizes)
    assert isinstance(sizes.vision, QwenVisionSizes)
    assert bill.vision == vision.qwen(sizes.vision, (36, 36)) + vision.qwen(sizes.vision, (4, 10))
    assert bill.connector == vision.merger(sizes.vision, (36, 36)) + vision.merger(sizes.vision, (4, 10))
    assert sizes.connector is None


@pytest.mark.parametrize("grid", [(8, 8), (16, 24), (4, 10), (18, 34), (2, 2)])
def test_windows_are_ragged_at_the_edges(grid: tuple[int, int]) -> None:
    sizes = QwenVisionSizes(2, 6, 4, 3, 10, 2, 5, window=8, full_layers=(1,))
    height, width = grid
    pairs = sum(
        1
        for a in range(height * width)
        for b in range(height * width)
        if (a // width // 8, a % width // 8) == (b // width // 8, b % width // 8)
    )
    patches = height * width
    dense = 2 * (4 * patches * 36 + 3 * patches * 6 * 4) + patches * 10 * 6
    assert vision.qwen(sizes, grid) == dense + 2 * 6 * (pairs + patches**2)


def test_without_windows_every_layer_sees_the_whole_picture() -> None:
    sizes = published("qwen2-vl-7b").vision
    assert isinstance(sizes, QwenVisionSizes)
    patches = 36 * 36
    block = 4 * patches * 1280**2 + 2 * patches**2 * 1280 + 2 * patches * 1280 * 5120
    assert vision.qwen(sizes, (36, 36)) == 32 * block + patches * 1176 * 1280


def test_an_unreduced_prompt_costs_all_of_the_original() -> None:
    found = ratios(WHOLE, WHOLE, LLAVA)
    assert (found.visual_only, found.decoder, found.full) == (1.0, 1.0, 1.0)
    text = replace(WHOLE, visual=(0,) * 32, grids=(), connector_tokens=0)
    nothing = ratios(text, text, LLAVA)
    assert math.isnan(nothing.visual_only)
    assert (nothing.decoder, nothing.full) == (1.0, 1.0)


def test_published_single_settings_of_divprune() -> None:
    """128 of 576 tokens: the specification's ratios without text, with 61 text tokens, and with the whole tower."""
    part = replace(WHOLE, visual=(128,) * 32)
    found = ratios(part, WHOLE, LLAVA)
    assert [round(100 * value, 2) for value in (found.visual_only, found.decoder)] == [21.83, 29.15]
    whole_tower = Profile("eq. 10", "", tower="all", head="none", scoring=False, decode=False)
    literally = count(part, LLAVA, whole_tower).macs / count(WHOLE, LLAVA, whole_tower).macs
    assert round(100 * literally, 2) == 32.39


@given(
    visual=st.lists(st.integers(0, 600), min_size=3, max_size=3),
    layer=st.integers(0, 2),
    lost=st.integers(1, 600),
    name=st.sampled_from(sorted(PROFILES)),
)
def test_fewer_tokens_anywhere_cost_less(visual: list[int], layer: int, lost: int, name: str) -> None:
    sizes = ModelSizes(SMALL, LLAVA.vision, LLAVA.connector)
    counts = Counts(tuple(visual), text=4, grids=((1, 24, 24),), connector_tokens=576, generated=2)
    fewer = list(visual)
    fewer[layer] = max(0, visual[layer] - lost)
    cheaper = count(replace(counts, visual=tuple(fewer)), sizes, name).macs
    assert cheaper < count(counts, sizes, name).macs or fewer == visual


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual": (576,) * 31}, "31 decoder layers, the model has 32"),
        ({"visual": (-1,) * 32}, "negative"),
        ({"text": -1}, "negative"),
        ({"generated": 0}, "at least one token"),
        ({"grids": ((1, 0, 24),)}, "at least one patch"),
    ],
)
def test_impossible_counts_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        count(replace(WHOLE, **changes), LLAVA)  # type: ignore[arg-type]  # each field gets its own type


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'lofi'"):
        profile("lofy")
    with pytest.raises(UnknownName, match=r"Did you mean 'llava-1\.5-7b'"):
        published("llava-1.5-7")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_survive_json(name: str) -> None:
    sizes = published(name)
    assert ModelSizes.from_json(json.loads(json.dumps(sizes.to_json()))) == sizes
