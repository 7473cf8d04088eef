"""PyramidDrop, SparseVLM, VTW and QUOTA inside real decoders: counts per layer, records, positions, and batches."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from steadyvlm.engine import Request, generate
from steadyvlm.records import Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Reduction
from tiny import VISUAL, make_image, tiny_llava
from tiny_families import tiny_family

STEPS = 4
ENDS = tuple(range(2, 271, 15))

# recipe -> first layer and visual tokens from there on, of 36 in a decoder of 8 layers
METHODS: dict[str, dict[int, int]] = {
    "pyramiddrop(layers=[2, 4, 6], keep_ratios=[0.5, 0.25, 0.125])": {0: 36, 2: 18, 4: 9, 6: 4},
    "pyramiddrop(layers=[0, 7], keep_ratios=[0.3, 0.0])": {0: 10, 7: 0},
    # 20 lost 16, of which 5 recycled to 1; 10 lost 11, of which 4 to 1; 3 lost 8, of which 3 to 1
    "sparsevlm(layers=[0, 2, 5], keep=[20, 10, 3])": {0: 36, 1: 21, 3: 11, 6: 4},
    "sparsevlm(layers=[1], keep=[0.1])": {0: 36, 2: 5},  # 3 kept, 33 lost, of which 10 recycled to 2
    "sparsevlm(layers=[1], keep=[40], compat=True)": {0: 36, 2: 36},
    "sparsevlm_plus(layers=[0, 2, 5], keep=[20, 10, 3])": {0: 36, 1: 20, 3: 10, 6: 3},
    "vtw(layer=3)": {0: 36, 3: 0},
    "vtw(layer=3, reindex=True)": {0: 36, 3: 0},
    "quota(layers=[2, 3, 4], keep_ratios='uniform')": {0: 36, 3: 28, 4: 20, 5: 11},
    "quota(layers=[2, 3], keep_ratios=[1.0, 0.5], apply='own')": {0: 36, 2: 36, 3: 18},
}
FIRST = "sparsevlm(version='first', layers=[0, 2, 5], scale=3, bias=1)"
SHALLOW = (  # for the four layers of the other families
    "pyramiddrop(layers=[1, 3], keep_ratios=[0.5, 0.2])",
    "sparsevlm(layers=[0, 2], keep=[0.5, 0.2])",
    "sparsevlm(version='first', layers=[0, 1, 2], scale=0.7, bias=1)",
    "sparsevlm_plus(layers=[0, 2], keep=[0.5, 0.2])",
    "vtw(layer=2)",
    "vtw(layer=2, reindex=True)",
    "quota(layers=[2], keep_ratios='uniform', scope='image')",
    "quota(layers=[2, 3], keep_ratios='uniform', apply='own', v_source='input', intra_causal_correction=True)",
)


@functools.cache
def model() -> Any:
    return tiny_llava(layers=8, eos=ENDS)


def requests() -> list[Request]:
    """Eight prompts: one, two and no pictures, short and long."""
    prompts = ["what colour is it?", "how?", "is the star the same red? how " * 3, "what shape is the blue star?"]
    found = [Request((make_image(20 + i),), prompt, i) for i, prompt in enumerate(prompts)]
    found += [Request((make_image(30), make_image(31)), prompt, 5) for prompt in prompts[:2]]
    return [*found, Request((), "how?", 7), Request((make_image(20),), "a red star?", 8)]


def answers(which: Any, recipe: str, batch: list[Request]) -> list[Generation]:
    method: Reduction = REDUCTIONS.create(recipe)
    results = generate(which, batch, method, max_new_tokens=STEPS, top_k=5)
    assert all(isinstance(result, Generation) for result in results), results
    return [result for result in results if isinstance(result, Generation)]


def assert_same(together: list[Generation], alone: list[Generation]) -> None:
    for one, two in zip(together, alone, strict=True):
        assert one.token_ids == two.token_ids
        assert one.kept == two.kept
        assert one.cost.visual_tokens_per_layer == two.cost.visual_tokens_per_layer
        assert [top.token_id for top in one.top] == [top.token_id for top in two.top]
        for first, second in zip(one.top, two.top, strict=True):
            assert first.logprob == pytest.approx(second.logprob, abs=2e-4)


@pytest.mark.parametrize("recipe", METHODS)
def test_each_layer_processes_what_the_schedule_says(recipe: str) -> None:
    result = answers(model(), recipe, requests()[:1])[0]
    schedule = METHODS[recipe]
    expected = [schedule[max(start for start in schedule if start <= layer)] for layer in range(8)]
    assert list(result.cost.visual_tokens_per_layer) == expected
    assert {record.layer: len(record.indices) for record in result.kept} == {
        layer: count for layer, count in schedule.items() if layer or count != VISUAL
    }


@pytest.mark.parametrize("recipe", [*METHODS, FIRST])
def test_a_batch_of_eight_answers_as_eight_batches_of_one(recipe: str) -> None:
    batch = requests()
    together = answers(model(), recipe, batch)
    assert_same(together, [answers(model(), recipe, [request])[0] for request in batch])
    assert any(one.kept for one in together)
    assert not together[6].kept  # no picture


@pytest.mark.parametrize("recipe", SHALLOW)
@pytest.mark.parametrize("family", ["llava_next", "qwen2_vl", "qwen2_5_vl"])
def test_families_batch_as_well(family: str, recipe: str) -> None:
    which = tiny_family(family)
    batch = [
        Request((make_image(1, 40, 24),), "how?", 1),
        Request((make_image(2, 24, 24), make_image(3, 30, 48)), "what colour is it?", 2),
        Request((), "a red star?", 3),
    ]
    assert_same(answers(which, recipe, batch), [answers(which, recipe, [request])[0] for request in batch])


def test_merged_tokens_stand_in_the_image_of_their_centre_and_count_their_members() -> None:
    result = answers(model(), "sparsevlm(layers=[1], keep=[30])", [requests()[4]])[0]
    first, second = (record for record in result.kept if record.layer == 2)
    assert (first.image, second.image) == (0, 1)
    # 72 tokens, 42 lost, 13 recycled into 2 groups: 11 more than the two centres
    assert len(first.indices) + len(second.indices) == 32
    assert sum(first.merged) + sum(second.merged) == 11
    for record in (first, second):
        pruned = [
            index for index, more in zip(record.indices, record.merged or record.indices, strict=True) if not more
        ]
        assert pruned == sorted(pruned)


def test_withdrawal_before_layer_0_is_the_answer_to_the_text_alone() -> None:
    asked = requests()[3]
    blind = answers(model(), "vtw(layer=0, reindex=True)", [asked])[0]
    other = answers(model(), "vtw(layer=0, reindex=True)", [Request((make_image(99),), asked.prompt, 1)])[0]
    seeing = answers(model(), "keep_all", [asked])[0]
    assert blind.token_ids == other.token_ids
    assert blind.top == other.top
    assert blind.top != seeing.top


def test_the_gap_of_withdrawn_tokens_matters_unless_it_is_closed() -> None:
    kept, closed = (
        answers(model(), f"vtw(layer=3, reindex={reindex})", requests()[:1])[0] for reindex in (False, True)
    )
    assert kept.cost.visual_tokens_per_layer == closed.cost.visual_tokens_per_layer
    assert kept.top != closed.top


def test_inputs_of_an_unreduced_prompt_are_those_of_the_original() -> None:
    everything = ["pyramiddrop(layers=[2], keep_ratios=[1.0])", "sparsevlm(layers=[2], keep=[72])", "vtw(layer=7)"]
    plain = answers(model(), "keep_all", requests()[:1])[0]
    assert torch.tensor(plain.top[0].logprob).isfinite()
    for recipe in everything[:2]:
        same = answers(model(), recipe, requests()[:1])[0]
        assert same.token_ids == plain.token_ids
        assert [one.logprob for one in same.top] == pytest.approx([two.logprob for two in plain.top], abs=1e-5)
    assert answers(model(), everything[2], requests()[:1])[0].top != plain.top
