"""Four-bit keys and values inside the engine: what is attended to, what is held, and what a batch changes: nothing."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch

import naive
from steadyvlm.engine import PrefillResult, Request, generate, run_prefill
from steadyvlm.engine.layer_cache import PackedCache
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.kv import KeyValueQuantizer, PackedRows
from steadyvlm.records import Generation
from steadyvlm.reduction import REDUCTIONS
from tiny import VISUAL, make_image, tiny_llava, with_packed_cache
from tiny_families import make_family

STEPS = 5
ENDS = tuple(range(2, 271, 15))
REQUESTS = (
    Request((make_image(10),), "what is the colour?", 1),
    Request((make_image(11), make_image(12, 60, 30)), "is the star the same red?", 2),
    Request((), "how?", 3),
)


@functools.cache
def model_of(name: str, *, bits: int = 4, in_prefill: bool = True) -> Any:
    kinds: dict[str, Any] = {
        "llama": tiny_llava,
        "mistral-window": lambda: tiny_llava(text="mistral", sliding_window=25),
        "qwen2_5_vl": lambda: make_family("qwen2_5_vl"),
    }
    model = with_packed_cache(kinds[name](), bits=bits, in_prefill=in_prefill)
    model._info = dataclasses.replace(model.info, eos_token_ids=ENDS)
    return model


def answers(model: VisionLanguageModel, requests: tuple[Request, ...], recipe: str) -> list[Generation]:
    results = generate(model, requests, REDUCTIONS.create(recipe), max_new_tokens=STEPS, top_k=8)
    assert all(isinstance(result, Generation) for result in results), results
    return [result for result in results if isinstance(result, Generation)]


@pytest.mark.parametrize("recipe", ["keep_all", "fastv(layer=2, keep_ratio=0.3)", "divprune(keep_ratio=0.3)"])
@pytest.mark.parametrize("in_prefill", [True, False])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2_5_vl"])
def test_answers_are_those_of_the_slow_engine(name: str, in_prefill: bool, recipe: str) -> None:
    model = model_of(name, in_prefill=in_prefill)
    for request, got in zip(REQUESTS, answers(model, REQUESTS, recipe), strict=True):
        with torch.no_grad():
            ids, first = naive.answer(model, request, REDUCTIONS.create(recipe), STEPS)
        assert list(got.token_ids) == ids
        best = first.topk(8)
        assert [item.token_id for item in got.top] == best.indices.tolist()
        assert [item.logprob for item in got.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_rounding_changes_the_answer_and_more_bits_change_it_less() -> None:
    """Otherwise the tests around this one would prove nothing."""
    exact, *packed = (
        torch.stack([result.logits for result in run_prefill(model, REQUESTS) if isinstance(result, PrefillResult)])
        for model in (tiny_llava(), *(model_of("llama", bits=bits) for bits in (2, 4, 8)))
    )
    losses = [float((logits - exact).square().mean()) for logits in packed]
    assert losses[0] > losses[1] > losses[2] > 1e-3


BATCH = (
    *REQUESTS,
    Request((make_image(10),), "is the shape blue, or is it not the shape that is blue?", 5),
    Request((make_image(13, 24, 70),), "what?", 6),
    Request((make_image(14), make_image(14), make_image(15, 90, 40)), "the a the a.", 7),
    Request((make_image(16, 200, 40),), "what is the colour?", 8),
    Request((make_image(17),), "how?", 9),
)


@pytest.mark.parametrize("recipe", ["keep_all", "pyramiddrop(layers=(1, 3), keep_ratios=(0.6, 0.2))", "lofi(beta=2.0)"])
@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2_5_vl"])
def test_a_batch_of_eight_answers_as_eight_batches_of_one(name: str, recipe: str) -> None:
    model = model_of(name)
    together = answers(model, BATCH, recipe)
    for request, many in zip(BATCH, together, strict=True):
        (one,) = answers(model, (request,), recipe)
        assert many.token_ids == one.token_ids
        assert many.kept == one.kept
        assert [item.logprob for item in many.top] == pytest.approx([item.logprob for item in one.top], abs=1e-4)
        assert many.cost.cache_bytes == one.cost.cache_bytes
    assert len({len(item.token_ids) for item in together}) > 1, "answers must leave the batch at different steps"


@pytest.mark.parametrize(("bits", "one_head"), [(4, 8 // 2 + 3), (3, 8 // 2 + 3), (8, 8 + 3)])
def test_costs_count_codes_scales_and_zero_points(bits: int, one_head: int) -> None:
    model = with_packed_cache(tiny_llava(eos=()), bits=bits)
    (whole,) = answers(model, REQUESTS[:1], "keep_all")
    token_bytes = 2 * 2 * one_head  # keys and values, two heads of eight
    assert whole.cost.cache_bytes == 4 * (whole.cost.prompt_tokens + STEPS - 1) * token_bytes
    (pruned,) = answers(model, REQUESTS[:1], "fastv(layer=2, keep_ratio=0.25)")
    assert pruned.cost.cache_bytes == whole.cost.cache_bytes - 2 * (VISUAL - 9) * token_bytes


class Counting(KeyValueQuantizer):
    """Remembers how many tokens it was asked to pack."""

    def __init__(self) -> None:
        super().__init__(6)
        self.asked: list[int] = []

    def encode_keys(self, keys: torch.Tensor) -> PackedRows:
        self.asked.append(keys.shape[2])
        return super().encode_keys(keys)

    def encode_values(self, values: torch.Tensor) -> PackedRows:
        self.asked.append(values.shape[2])
        return super().encode_values(values)


def test_a_new_token_leaves_the_codes_of_the_old_ones_alone() -> None:
    quantizer, generator = Counting(), torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 3, 2, 5, 6, generator=generator).unbind()
    cache = PackedCache(quantizer, keys[:, :, :3], values[:, :, :3])
    before = cache.decoded()
    quantizer.asked.clear()
    for column in (3, 4):
        after = cache.extend(keys[:, :, column : column + 1], values[:, :, column : column + 1])
    assert quantizer.asked == [1, 1, 1, 1]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old, new[:, :, :3])
    for new, all_at_once in zip(after, PackedCache(quantizer, keys, values).decoded(), strict=True):
        assert torch.equal(new, all_at_once)


def test_dropping_tokens_before_or_after_packing_gives_the_same_bits() -> None:
    generator = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, 2, 2, 9, 6, generator=generator).unbind()
    columns = torch.tensor([[0, 2, 3, 8], [1, 4, 5, 6]])
    quantizer = KeyValueQuantizer(6, transform=torch.eye(6) + 0.3 * torch.randn(6, 6, generator=generator))
    late = PackedCache(quantizer, keys, values)
    late.keep_columns(columns)
    picked = columns[:, None, :, None].expand(-1, 2, -1, 6)
    early = PackedCache(quantizer, keys.gather(2, picked), values.gather(2, picked))
    late.keep_rows(torch.tensor([1]))
    early.keep_rows(torch.tensor([1]))
    for one, other in zip(late.decoded(), early.decoded(), strict=True):
        assert one.shape == (1, 2, 4, 6)
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_low_bit_model_runs_in_half_precision_and_holds_no_more_than_its_codes(dtype: torch.dtype) -> None:
    model: Any = tiny_llava(eos=()).copy()
    model.module.to(dtype)
    HadamardW4A4().quantize_blocks(model.blocks(("language", "connector", "vision")), model.module)
    recipe = "quota(layers=(2,), keep_ratios=(0.3,))"
    for result in answers(model, REQUESTS, recipe):
        assert result.token_ids
        layers = [*result.cost.visual_tokens_per_layer[1:], result.cost.visual_tokens_per_layer[-1]]
        held = sum(layers) + 4 * (result.cost.text_tokens + STEPS - 1)
        assert result.cost.cache_bytes == held * 2 * 2 * (8 // 2 + 3)
