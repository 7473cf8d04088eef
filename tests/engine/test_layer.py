"""One layer by itself computes what it computes among the others, and a profile shows what the engine uses."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import naive
from steadyvlm.engine import PrefillResult, Request, run_prefill
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.capture import assembled, observe_layers
from steadyvlm.engine.layer import run_layer
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import SampleError
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from tiny import VISUAL, make_image, tiny_llava, with_packed_cache
from tiny_families import tiny_family

REQUESTS = [
    Request((make_image(0),), "what colour is the star?", 1),
    Request((make_image(1), make_image(2, 60, 30)), "how?", 2),
    Request((), "is the star red, or is it not?", 3),
]
QUANTIZERS = {"rtn_w4a4": RTNW4A4(), "hadamard_w4a4": HadamardW4A4(kv_in_prefill=False)}
MODELS = ("llama", "mistral-window", "qwen2_vl", "packed", "packed-not-in-prefill", *QUANTIZERS)


def model_of(name: str) -> Any:
    if name in QUANTIZERS:
        model = tiny_llava().copy()
        QUANTIZERS[name].quantize_blocks(model.blocks(("language",)), model.module)
        return model
    if name.startswith("packed"):
        return with_packed_cache(tiny_llava(), in_prefill=name == "packed")
    if name == "mistral-window":
        return tiny_llava(text="mistral", sliding_window=25)
    return tiny_llava() if name == "llama" else tiny_family(name)


@dataclass(frozen=True)
class Halves:
    """Drops every other token before layer 2."""

    needs = frozenset[Signal]()
    compact_positions = False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(2),)

    def select(self, signals: Signals, site: Site) -> Selection:
        return Selection(torch.arange(0, signals.num_tokens, 2))


@torch.no_grad()
@pytest.mark.parametrize("reduction", [None, Halves()])
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_by_itself_gives_what_the_next_one_receives(name: str, reduction: Halves | None) -> None:
    model = model_of(name)
    seen: list[tuple[VisualSequence, Tensor]] = []
    run_prefill(model, REQUESTS, reduction, observe=lambda _, batch, __: seen.append((batch, batch.hidden.clone())))
    for index, layer in enumerate(model.layers()[:-1]):
        sequence, hidden = seen[index]
        before = hidden.clone()
        output = run_layer(layer, LayerGroup(model, sequence), hidden)
        assert torch.equal(hidden, before), "what enters stays as it is"
        if reduction is None or index != 1:  # a selection stands between layers 1 and 2
            torch.testing.assert_close(output, seen[index + 1][1])


@torch.no_grad()
def test_padding_reaches_no_other_column() -> None:
    model = model_of("packed")
    sequence = assembled(model, REQUESTS)
    noisy = torch.where(sequence.valid()[..., None], sequence.hidden, 50 * torch.randn_like(sequence.hidden))
    outputs = [
        run_layer(model.layers()[0], LayerGroup(model, sequence), hidden)[sequence.valid()]
        for hidden in (sequence.hidden, noisy)
    ]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_a_prompt_can_be_watched(name: str) -> None:
    model = model_of(name)
    views = list(observe_layers(model, REQUESTS))
    assert [view.index for view in views] == list(range(model.info.num_layers))
    for view, following in itertools.pairwise(views):
        assert view.after is following.before
        assert view.sequence is following.sequence
        assert not view.after.is_inference()
    last = views[-1].sequence.last(views[-1].after)[:, 0]
    for row, result in enumerate(run_prefill(model, REQUESTS)):
        assert isinstance(result, PrefillResult)
        with torch.no_grad():
            torch.testing.assert_close(model.logits(last)[row], result.logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "mistral-window", "qwen2_vl", "packed"])
def test_the_question_is_watched_where_it_looks(name: str) -> None:
    model = model_of(name)
    text = naive.eager(model.module).model.language_model
    for view in observe_layers(model, REQUESTS):
        sequence = view.sequence
        for row, length in enumerate(sequence.lengths):
            places, visual = sequence.positions[row, :length], sequence.visual[row, :length]
            allowed = torch.ones(length, length).tril().bool()
            if model.info.sliding_window is not None:
                allowed &= places[:, None] - places[None, :] < model.info.sliding_window
            hidden = view.before[row : row + 1, :length]
            probabilities = naive.attend(text, text.layers[view.index], hidden, places, allowed)[1].float()
            expected = probabilities[:, sequence.question[row, :length]][:, :, visual].mean((0, 1))
            torch.testing.assert_close(view.question_attention[row], expected, rtol=1e-4, atol=1e-6)
    assert [len(part) for part in view.question_attention][2] == 0


def test_prompts_stand_in_front_of_the_first_layer_in_order() -> None:
    sequence = assembled(tiny_llava(), REQUESTS)
    assert sequence.counts == [VISUAL, 2 * VISUAL, 0]
    assert sequence.origin is None


def test_what_cannot_be_read_is_refused_by_number() -> None:
    broken = [REQUESTS[0], Request((), "  ", 1)]
    with pytest.raises(SampleError, match="request 1 of 2 cannot be read"):
        assembled(tiny_llava(), broken)
    with pytest.raises(SampleError, match="request 1 of 2"):
        list(observe_layers(tiny_llava(), broken))
