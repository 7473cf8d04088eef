"""Tokens that leave hidden states and caches together: the same set every time, at their own places, and nothing else.

What is pruned is held against full sequences in which the dropped tokens are masked instead of removed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
from steadyvlm.engine import Request, generate, run_prefill
from steadyvlm.engine.prefill import prefill_batch
from steadyvlm.engine.signals import check_reduction
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import InvalidOption
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.records import Generation, KeptTokens
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from steadyvlm.reduction.tensor_ops import top_k
from tiny import VISUAL, make_image, tiny_llava, with_packed_cache
from tiny_families import make_family

STEPS = 5
ENDS = tuple(range(2, 271, 4))
REQUESTS = (
    Request((make_image(10),), "what is the colour?", 1),
    Request((make_image(11), make_image(12, 60, 30)), "is the star the same red?", 2),
    Request((), "how?", 3),
    Request((make_image(13, 24, 70),), "is the shape blue, or is it not the shape that is blue?", 4),
    Request((make_image(14, 200, 40),), "what?", 5),
)
FAMILIES = ("llama", "qwen2_5_vl")
CACHES = ("plain", "packed")


@dataclass(frozen=True)
class Joint:
    """Ranks by all a low-bit pruner reads of the layer before, and keeps a share of the original tokens."""

    layers: tuple[int, ...] = (1, 3)
    keep: tuple[float, ...] = (0.6, 0.25)
    prune_cache: bool = True
    compact_positions: bool = False
    needs = frozenset({Signal.QUESTION_ATTENTION, Signal.VISUAL_ATTENTION, Signal.HIDDEN_BEFORE, Signal.HIDDEN})

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return tuple(Site(layer) for layer in self.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        assert site.layer is not None
        scores = (
            0.45 * scaled(signals.require(Signal.QUESTION_ATTENTION))
            + 0.10 * scaled(signals.require(Signal.VISUAL_ATTENTION))
            + 0.25 * scaled(signals.require(Signal.HIDDEN).norm(dim=1))
            + 0.20 * scaled(signals.require(Signal.HIDDEN_BEFORE).norm(dim=1))
        )
        share = self.keep[self.layers.index(site.layer)]
        return Selection(top_k(scores, min(round(share * signals.original_tokens), signals.num_tokens)))


def scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return ((values - low) / (high - low + 1e-8)).clamp(0, 1)


@functools.cache
def model_of(family: str, cache: str = "plain") -> Any:
    model: Any = tiny_llava() if family == "llama" else make_family(family)
    if family == "mistral-window":
        model = tiny_llava(text="mistral", sliding_window=25)
    return ending(with_packed_cache(model) if cache == "packed" else model, *ENDS)


def ending(model: Any, *ends: int) -> Any:
    """A copy whose answers end at these ids."""
    twin = model.copy()
    twin._info = dataclasses.replace(model.info, eos_token_ids=ends)
    return twin


def answers(model: Any, reduction: Reduction | None, requests: Sequence[Request] = REQUESTS) -> list[Generation]:
    results = generate(model, requests, reduction, max_new_tokens=STEPS, top_k=8)
    assert all(isinstance(result, Generation) for result in results), results
    return [result for result in results if isinstance(result, Generation)]


def logits_of(model: Any, reduction: Reduction | None, requests: Sequence[Request]) -> list[Tensor]:
    """The logits [B, V] of every step, of rows that all go on to the end."""
    seen: list[Tensor] = []
    twin = ending(model)

    def watched(hidden: Tensor) -> Tensor:
        seen.append(model.logits(hidden))
        return seen[-1]

    twin.logits = watched
    generate(twin, requests, reduction, max_new_tokens=STEPS)
    return seen


# S1: the same set every time


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_runs_repeat_exactly(family: str, cache: str) -> None:
    first, again = answers(model_of(family, cache), Joint()), answers(model_of(family, cache), Joint())
    assert [item.kept for item in first] == [item.kept for item in again]
    assert [item.top for item in first] == [item.top for item in again]
    assert len({item.kept for item in first}) > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_that_receive_equal_attention_tie_exactly_and_the_first_stay(family: str) -> None:
    @dataclass(frozen=True)
    class ByAttention(Joint):
        signal: Signal = Signal.QUESTION_ATTENTION

        def select(self, signals: Signals, site: Site) -> Selection:
            scores = signals.require(self.signal)
            assert len(scores.unique()) == 1
            return Selection(top_k(scores, 5))

    model = model_of(family).copy()
    with torch.no_grad():
        for layer in model.module.model.language_model.layers:  # no key is better than another
            for weight in layer.self_attn.k_proj.parameters():
                weight.zero_()
    for item in answers(model, ByAttention(layers=(1,)), REQUESTS[:2]):
        assert sum((record.indices for record in item.kept), ()) == tuple(range(5))


def test_the_layout_in_memory_changes_no_choice() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(40, 6, generator=generator).round()  # rounded, so that many tie
    values: dict[str, Any] = {"hidden": rows, "hidden_before": rows.flip(1)}
    values |= {
        name: rows[:, column].contiguous() for column, name in enumerate(("question_attention", "visual_attention"))
    }

    def strided(value: Tensor) -> Tensor:
        wide = torch.full((*value.shape, 3), float("nan"))
        wide[..., 1] = value
        return wide[..., 1]

    moved = {name: strided(value.T.contiguous().T if value.dim() == 2 else value) for name, value in values.items()}
    here = Joint().select(Signals(40, original_tokens=40, **values), Site(1)).keep
    there = Joint().select(Signals(40, original_tokens=40, **moved), Site(1)).keep
    assert torch.equal(here, there)


# S2: keeping everything changes nothing


@pytest.mark.parametrize("prune_cache", [True, False])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", [*FAMILIES, "mistral-window"])
def test_keeping_everything_at_all_layers_changes_no_bit(family: str, cache: str, prune_cache: bool) -> None:
    model = model_of(family, cache)
    everything = KeepAll(layers=(0, 1, 2, 3), prune_cache=prune_cache)
    for requests in (REQUESTS, REQUESTS[:1]):
        plain, kept = logits_of(model, None, requests), logits_of(model, everything, requests)
        assert len(plain) == len(kept) == STEPS
        for one, other in zip(plain, kept, strict=True):
            assert torch.equal(one, other)


@dataclass(frozen=True)
class KeepAll(Joint):
    """Reads nothing, so that it may act before layer 0 as well."""

    needs = frozenset[Signal]()

    def select(self, signals: Signals, site: Site) -> Selection:
        return Selection(torch.arange(signals.num_tokens))


# S3: removing is masking


class Masked:
    """A full sequence; dropped tokens go on, but from some layer on nobody looks at them."""

    def __init__(self, model: VisionLanguageModel, request: Request, kept: Sequence[KeptTokens], prune_cache: bool):
        plain = KeepAll(layers=())
        self.prompt = naive.Prompt(naive.eager(model.module), model, request, plain)
        numbers: list[tuple[int, int] | None] = []
        pixels = [model.preprocess(image) for image in request.images]
        image = 0
        for token in model.tokenize(request.prompt, len(pixels)):
            if token != IMAGE_SLOT:
                numbers.append(None)
                continue
            numbers += [(image, number) for number in pixels[image].layout.token_ids()]
            image += 1
        self.dropped: dict[int, list[int]] = {}
        for layer in {record.layer for record in kept}:
            left = {(item.image, number) for item in kept if item.layer == layer for number in item.indices}
            self.dropped[layer] = [place for place, name in enumerate(numbers) if name is not None and name not in left]
        self.prune_cache = prune_cache

    def forward(self, answered: Sequence[int]) -> Tensor:
        """Return the logits [1 + A, V] after the prompt and after each answer token."""
        prompt, length = self.prompt, len(self.prompt.rows)
        rows = prompt.rows + [prompt.text.embed_tokens(torch.tensor(token)) for token in answered]
        axes = prompt.model.info.position_axes
        ahead = [prompt.next + step if axes == 1 else [prompt.next + step] * 3 for step in range(len(answered))]
        places = torch.tensor(prompt.positions + ahead)
        hidden = torch.stack(rows)[None]
        window = getattr(prompt.module.config.text_config, "sliding_window", None)
        causal = torch.ones(len(rows), len(rows)).tril().bool()
        if window is not None:
            causal &= places[:, None] - places[None, :] < window
        for index, layer in enumerate(prompt.text.layers):
            allowed = causal.clone()
            for site, columns in self.dropped.items():
                if site <= index:
                    allowed[:, columns] = False
                elif site == index + 1 and self.prune_cache:
                    allowed[length:, columns] = False
            allowed |= torch.eye(len(rows)).bool()  # a dropped token still needs something to look at
            hidden = hidden + naive.attend(prompt.text, layer, hidden, places, allowed, len(answered))[0]
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return prompt.module.lm_head(prompt.text.norm(hidden[0, length - 1 :])).float()  # type: ignore[no-any-return]


@pytest.mark.parametrize("layers", [(1, 3), (1, 2, 3), (2,)])
@pytest.mark.parametrize("prune_cache", [True, False])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", [*FAMILIES, "mistral-window"])
def test_removed_tokens_are_masked_tokens(family: str, cache: str, prune_cache: bool, layers: tuple[int, ...]) -> None:
    model = model_of(family, cache)
    method = Joint(layers=layers, keep=(0.6, 0.4, 0.2)[: len(layers)], prune_cache=prune_cache)
    steps = logits_of(model, method, REQUESTS)
    for row, (request, result) in enumerate(zip(REQUESTS, answers(model, method), strict=True)):
        ids = [int(step[row].argmax()) for step in steps]
        with torch.no_grad():
            expected = Masked(model, request, result.kept, prune_cache).forward(ids[:-1])
        got = torch.stack([step[row] for step in steps])
        assert float((got - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("cache", CACHES)
def test_pruning_the_cache_changes_decoding_and_nothing_before(cache: str) -> None:
    """Otherwise the test above could not tell the two apart."""
    model = model_of("llama", cache)
    with_it, without = (logits_of(model, Joint(prune_cache=prune), REQUESTS[:2]) for prune in (True, False))
    assert torch.equal(with_it[0], without[0])
    assert float((with_it[1] - without[1]).abs().max()) > 1e-3


# S4: nobody is re-numbered


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_survivors_keep_their_positions_and_the_answer_follows_the_whole_prompt(family: str, cache: str) -> None:
    model, method = model_of(family, cache), Joint()
    seen: dict[int, VisualSequence] = {}
    run_prefill(model, REQUESTS, method, observe=lambda index, sequence, _: seen.update({index: sequence}))
    for row, (request, result) in enumerate(zip(REQUESTS, answers(model, method), strict=True)):
        whole = seen[0].positions[row, : seen[0].lengths[row]].tolist()
        visual = seen[0].visual[row].tolist()
        names = iter(
            [(image, number) for image, picture in enumerate(request.images) for number in ids(model, picture)]
        )
        names_of = [next(names) if visual[column] else None for column in range(len(whole))]
        for index in range(4):
            sites = [record for record in result.kept if record.layer <= index]
            latest = max((record.layer for record in sites), default=None)
            left = {(item.image, number) for item in sites if item.layer == latest for number in item.indices}
            expected = [
                place for place, name in zip(whole, names_of, strict=True) if name is None or not sites or name in left
            ]
            assert seen[index].positions[row, : seen[index].lengths[row]].tolist() == expected
            assert seen[index].next_positions == seen[0].next_positions
        last = max(max(place) if isinstance(place, list) else place for place in whole)
        assert seen[3].next_positions[row] == last + 1


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_decodes_at_the_original_length_plus_the_step(family: str) -> None:
    model = model_of(family)
    batch = prefill_batch(model, REQUESTS, Joint(), budget=4)
    lengths = [result.next_position for result in batch.ready]
    assert [len(group.layers) for group in batch.groups] == [0, 2, 2]
    for group in batch.groups:
        for step in range(4):
            places = torch.tensor(lengths)[:, None] + step
            axes = () if model.info.position_axes == 1 else (3,)
            expected = model.rotary(places.view(-1, 1, *(1 for _ in axes)).expand(-1, 1, *axes))
            for one, other in zip(group.step_angles(step), expected, strict=True):
                assert torch.equal(one, other)


def ids(model: VisionLanguageModel, picture: Any) -> Sequence[int]:
    return model.preprocess(picture).layout.token_ids()


# What is counted, what a batch changes, what is refused


@pytest.mark.parametrize("cache", CACHES)
def test_costs_tell_what_was_executed_from_what_is_held(cache: str) -> None:
    model = ending(model_of("llama", cache))
    token_bytes = 2 * 2 * (8 // 2 + 3) if cache == "packed" else 2 * 2 * 8 * 4
    kept, pruned = (answers(model, Joint(prune_cache=prune), REQUESTS[:1])[0] for prune in (False, True))
    text = kept.cost.prompt_tokens - VISUAL
    assert kept.cost.visual_tokens_per_layer == pruned.cost.visual_tokens_per_layer == (VISUAL, 22, 22, 9)
    held = {False: (VISUAL, 22, 22, 9), True: (22, 22, 9, 9)}
    for prune, result in ((False, kept), (True, pruned)):
        assert result.cost.cache_bytes == (sum(held[prune]) + 4 * (text + STEPS - 1)) * token_bytes


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", [*FAMILIES, "llava_next", "mistral-window"])
def test_a_batch_answers_as_batches_of_one_and_as_the_slow_engine(family: str, cache: str) -> None:
    model, method = model_of(family, cache), Joint(layers=(1, 2), keep=(0.6, 0.2))
    requests = (*REQUESTS, Request((make_image(15), make_image(15), make_image(16, 90, 40)), "the a the a.", 7))
    together = answers(model, method, requests)
    for request, many in zip(requests, together, strict=True):
        (one,) = answers(model, method, (request,))
        assert (many.token_ids, many.kept) == (one.token_ids, one.kept)
        assert many.cost.cache_bytes == one.cost.cache_bytes
        assert many.margin == pytest.approx(one.margin, abs=1e-4)
        with torch.no_grad():
            ids, first = naive.answer(model, request, method, STEPS)
        assert list(many.token_ids) == ids
        assert many.top[0].logprob == pytest.approx(float(first.max()), abs=1e-4)
    assert len({len(item.token_ids) for item in together}) > 1, "answers must leave the batch at different steps"


def test_a_cache_written_under_other_numbers_is_not_pruned() -> None:
    with pytest.raises(InvalidOption, match="compact_positions or prune_cache"):
        check_reduction(Joint(compact_positions=True), tiny_llava())
    check_reduction(Joint(compact_positions=True, prune_cache=False), tiny_llava())
